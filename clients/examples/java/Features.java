import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.protobuf.TextFormat;
import com.google.protobuf.Timestamp;
import hotfeast.serving.v1.ColumnBatch;
import hotfeast.serving.v1.FeatureList;
import hotfeast.serving.v1.FeatureServingGrpc;
import hotfeast.serving.v1.FeatureServingGrpc.FeatureServingBlockingStub;
import hotfeast.serving.v1.GetOnlineFeaturesRequest;
import hotfeast.serving.v1.GetOnlineFeaturesResponse;
import hotfeast.serving.v1.GetOnlineFeaturesResponse.FeatureVector;
import hotfeast.serving.v1.PushGrpc;
import hotfeast.serving.v1.PushGrpc.PushBlockingStub;
import hotfeast.serving.v1.PushRequest;
import hotfeast.serving.v1.PushResponse;
import hotfeast.serving.v1.RepeatedValue;
import hotfeast.serving.v1.RowRejection;
import hotfeast.serving.v1.Value;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.time.Instant;
import java.util.StringJoiner;
import java.util.stream.DoubleStream;
import java.util.stream.LongStream;

/**
 * Reads features from a Hotfeast gateway, pushes a row and handles an error:
 *
 * <pre>
 * make
 * build/features [HOST:PORT] [CA.pem]
 * </pre>
 *
 * It asks for what {@code make serve} serves. With the certificate of an authority it speaks TLS.
 */
public final class Features {
  private static final int DEADLINE_SECONDS = 5;

  private final FeatureServingBlockingStub serving;
  private final PushBlockingStub push;

  private Features(ManagedChannel channel) {
    serving = FeatureServingGrpc.newBlockingStub(channel);
    push = PushGrpc.newBlockingStub(channel);
  }

  public static void main(String[] arguments) throws IOException {
    String address = arguments.length > 0 ? arguments[0] : "127.0.0.1:6570";
    ChannelCredentials credentials =
        arguments.length > 1
            ? TlsChannelCredentials.newBuilder().trustManager(new File(arguments[1])).build()
            : InsecureChannelCredentials.create();
    ManagedChannel channel = Grpc.newChannelBuilder(address, credentials).build();
    try {
      new Features(channel).run();
    } catch (StatusRuntimeException error) {
      // UNAVAILABLE and DEADLINE_EXCEEDED may pass: a model server goes on without features, or
      // tries a read again.
      Status status = error.getStatus();
      System.err.println(status.getCode() + ": " + status.getDescription());
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }

  private void run() {
    readService("product_ranking");
    pushRow();
    try {
      readService("product_rankin");
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != Status.Code.NOT_FOUND) {
        throw error;
      }
      System.out.println("not found: " + error.getStatus().getDescription());
    }
  }

  /** Prints all features of a service for three households and products, by what is in the cart. */
  private void readService(String featureService) {
    GetOnlineFeaturesRequest request =
        GetOnlineFeaturesRequest.newBuilder()
            .setFeatureService(featureService)
            .putEntities("user_id", int64s(1453, 10, 999999))
            .putEntities("product_id", int64s(1110572, 1082185, 999999999))
            .putRequestContext("cart_value_usd", doubles(42.5, 42.5, 12))
            .putRequestContext("cart_items_count", int64s(9, 9, 0))
            .putRequestContext("requested_at", times(1514764800, 1514764800, 1514764800))
            .putRequestContext("promotion_min_cart_usd", doubles(40, 40, 40))
            .putRequestContext("promotion_min_baskets_30d", int64s(4, 4, 4))
            .build();
    GetOnlineFeaturesResponse answer =
        serving.withDeadlineAfter(DEADLINE_SECONDS, SECONDS).getOnlineFeatures(request);
    System.out.println(featureService + ":");
    print(answer);
  }

  /** Writes a row for a household that the data does not know, and reads it back. */
  private void pushRow() {
    RepeatedValue user = int64s(2500002);
    RepeatedValue product = int64s(1110572);
    Timestamp now = Timestamp.newBuilder().setSeconds(Instant.now().getEpochSecond()).build();
    PushRequest request =
        PushRequest.newBuilder()
            .setFeatureView("user_product_interactions")
            .setColumns(
                ColumnBatch.newBuilder()
                    .putColumns("user_id", user)
                    .putColumns("product_id", product)
                    .putColumns("pair_baskets_count_90d", int64s(5))
                    .putColumns("pair_units_count_90d", int64s(7))
                    .putColumns("pair_revenue_usd_90d", doubles(20.25))
                    .putColumns("pair_days_since_last_purchase", int64s(0))
                    .addEventTimestamps(now))
            .build();
    PushResponse pushed = push.withDeadlineAfter(DEADLINE_SECONDS, SECONDS).push(request);
    pushed.getOutcomesList().forEach(outcome -> System.out.println("pushed: " + outcome));
    for (RowRejection rejection : pushed.getRejectionsList()) {
      System.out.printf(
          "  row %d, %s: %s%n", rejection.getRow(), rejection.getField(), rejection.getMessage());
    }
    GetOnlineFeaturesRequest back =
        GetOnlineFeaturesRequest.newBuilder()
            .setFeatures(
                FeatureList.newBuilder().addVal("user_product_interactions:pair_revenue_usd_90d"))
            .putEntities("user_id", user)
            .putEntities("product_id", product)
            .build();
    print(serving.withDeadlineAfter(DEADLINE_SECONDS, SECONDS).getOnlineFeatures(back));
  }

  /** A line for each feature, with value and status for each row. */
  private static void print(GetOnlineFeaturesResponse answer) {
    for (int i = 0; i < answer.getResultsCount(); i++) {
      FeatureVector column = answer.getResults(i);
      StringJoiner cells = new StringJoiner(" | ");
      for (int row = 0; row < column.getValuesCount(); row++) {
        cells.add(text(column.getValues(row)) + " " + column.getStatuses(row));
      }
      System.out.printf("  %-30s %s%n", answer.getMetadata().getFeatureNames().getVal(i), cells);
    }
  }

  /** The value that is set; null has none. */
  private static String text(Value value) {
    switch (value.getValCase()) {
      case VAL_NOT_SET:
        return "-";
      case STRING_VAL:
        return value.getStringVal();
      case INT32_VAL:
        return Integer.toString(value.getInt32Val());
      case INT64_VAL:
        return Long.toString(value.getInt64Val());
      case DOUBLE_VAL:
        return Double.toString(value.getDoubleVal());
      case BOOL_VAL:
        return Boolean.toString(value.getBoolVal());
      default: // floats, times, bytes, lists, maps and so on
        return TextFormat.printer().shortDebugString(value);
    }
  }

  private static RepeatedValue int64s(long... values) {
    RepeatedValue.Builder column = RepeatedValue.newBuilder();
    LongStream.of(values).forEach(value -> column.addValBuilder().setInt64Val(value));
    return column.build();
  }

  private static RepeatedValue doubles(double... values) {
    RepeatedValue.Builder column = RepeatedValue.newBuilder();
    DoubleStream.of(values).forEach(value -> column.addValBuilder().setDoubleVal(value));
    return column.build();
  }

  /** Times are in seconds since 1970. */
  private static RepeatedValue times(long... values) {
    RepeatedValue.Builder column = RepeatedValue.newBuilder();
    LongStream.of(values).forEach(value -> column.addValBuilder().setUnixTimestampVal(value));
    return column.build();
  }
}
