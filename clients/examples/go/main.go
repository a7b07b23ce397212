// Command features reads features from a Hotfeast gateway, pushes a row and handles an error:
//
//	make
//	build/features [HOST:PORT] [CA.pem]
//
// It asks for what `make serve` serves. With the certificate of an authority it speaks TLS.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"hotfeast/serving/v1"
)

const deadline = 5 * time.Second

func main() {
	address := "127.0.0.1:6570"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	security := grpc.WithInsecure()
	if len(os.Args) > 2 {
		tls, err := credentials.NewClientTLSFromFile(os.Args[2], "")
		if err != nil {
			fail(err)
		}
		security = grpc.WithTransportCredentials(tls)
	}
	// One connection for all calls; it is made when the first call needs it.
	connection, err := grpc.Dial(address, security)
	if err != nil {
		fail(err)
	}
	defer connection.Close()
	features := serving.NewFeatureServingClient(connection)

	if err := readService(features, "product_ranking"); err != nil {
		fail(err)
	}
	if err := pushRow(features, serving.NewPushClient(connection)); err != nil {
		fail(err)
	}
	switch err := readService(features, "product_rankin"); status.Code(err) {
	case codes.OK:
	case codes.NotFound:
		fmt.Println("not found:", status.Convert(err).Message())
	default:
		fail(err)
	}
}

// fail ends the program. Unavailable and DeadlineExceeded may pass: a model server goes on without
// features, or tries a read again.
func fail(err error) {
	said := status.Convert(err)
	fmt.Fprintf(os.Stderr, "%s: %s\n", said.Code(), said.Message())
	os.Exit(1)
}

// readService prints all features of a service for three households and products, with what the
// request says.
func readService(features serving.FeatureServingClient, service string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	answer, err := features.GetOnlineFeatures(ctx, &serving.GetOnlineFeaturesRequest{
		Kind: &serving.GetOnlineFeaturesRequest_FeatureService{FeatureService: service},
		Entities: map[string]*serving.RepeatedValue{
			"user_id":    int64s(1453, 10, 999999),
			"product_id": int64s(1110572, 1082185, 999999999),
		},
		RequestContext: map[string]*serving.RepeatedValue{
			"cart_value_usd":            doubles(42.5, 42.5, 12),
			"cart_items_count":          int64s(9, 9, 0),
			"requested_at":              times(1514764800, 1514764800, 1514764800),
			"promotion_min_cart_usd":    doubles(40, 40, 40),
			"promotion_min_baskets_30d": int64s(4, 4, 4),
		},
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s:\n", service)
	show(answer)
	return nil
}

// pushRow writes a row for a household that the data does not know, and reads it back.
func pushRow(features serving.FeatureServingClient, push serving.PushClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	user, product := int64s(2500002), int64s(1110572)
	pushed, err := push.Push(ctx, &serving.PushRequest{
		Destination: &serving.PushRequest_FeatureView{FeatureView: "user_product_interactions"},
		Payload: &serving.PushRequest_Columns{Columns: &serving.ColumnBatch{
			Columns: map[string]*serving.RepeatedValue{
				"user_id":                       user,
				"product_id":                    product,
				"pair_baskets_count_90d":        int64s(5),
				"pair_units_count_90d":          int64s(7),
				"pair_revenue_usd_90d":          doubles(20.25),
				"pair_days_since_last_purchase": int64s(0),
			},
			EventTimestamps: []*timestamppb.Timestamp{timestamppb.Now()},
		}},
	})
	if err != nil {
		return err
	}
	for _, outcome := range pushed.Outcomes {
		fmt.Println("pushed:", outcome)
	}
	for _, rejection := range pushed.Rejections {
		fmt.Printf("  row %d, %s: %s\n", rejection.Row, rejection.Field, rejection.Message)
	}
	answer, err := features.GetOnlineFeatures(ctx, &serving.GetOnlineFeaturesRequest{
		Kind: &serving.GetOnlineFeaturesRequest_Features{Features: &serving.FeatureList{
			Val: []string{"user_product_interactions:pair_revenue_usd_90d"},
		}},
		Entities: map[string]*serving.RepeatedValue{"user_id": user, "product_id": product},
	})
	if err != nil {
		return err
	}
	show(answer)
	return nil
}

// show prints a line for each feature, with value and status for each row.
func show(answer *serving.GetOnlineFeaturesResponse) {
	for i, name := range answer.Metadata.FeatureNames.Val {
		column := answer.Results[i]
		cells := make([]string, len(column.Values))
		for row, value := range column.Values {
			cells[row] = fmt.Sprintf("%s %s", text(value), column.Statuses[row])
		}
		fmt.Printf("  %-30s %s\n", name, strings.Join(cells, " | "))
	}
}

// text is the value that is set; null has none.
func text(value *serving.Value) string {
	switch set := value.Val.(type) {
	case nil:
		return "-"
	case *serving.Value_StringVal:
		return set.StringVal
	case *serving.Value_Int32Val:
		return fmt.Sprint(set.Int32Val)
	case *serving.Value_Int64Val:
		return fmt.Sprint(set.Int64Val)
	case *serving.Value_DoubleVal:
		return fmt.Sprint(set.DoubleVal)
	case *serving.Value_BoolVal:
		return fmt.Sprint(set.BoolVal)
	default: // floats, times, bytes, lists, maps and so on
		return value.String()
	}
}

func int64s(values ...int64) *serving.RepeatedValue {
	column := &serving.RepeatedValue{}
	for _, value := range values {
		column.Val = append(column.Val, &serving.Value{Val: &serving.Value_Int64Val{Int64Val: value}})
	}
	return column
}

func doubles(values ...float64) *serving.RepeatedValue {
	column := &serving.RepeatedValue{}
	for _, value := range values {
		column.Val = append(column.Val, &serving.Value{Val: &serving.Value_DoubleVal{DoubleVal: value}})
	}
	return column
}

// times are in seconds since 1970.
func times(values ...int64) *serving.RepeatedValue {
	column := &serving.RepeatedValue{}
	for _, value := range values {
		column.Val = append(column.Val, &serving.Value{
			Val: &serving.Value_UnixTimestampVal{UnixTimestampVal: value},
		})
	}
	return column
}
