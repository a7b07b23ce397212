// Reads features from a Hotfeast gateway, pushes a row and handles an error:
//
//     cmake -B build && cmake --build build
//     build/features [HOST:PORT] [CA.pem]
//
// It asks for what `make serve` serves. With the certificate of an authority it speaks TLS.
#include <charconv>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <initializer_list>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "hotfeast/serving/v1/push.grpc.pb.h"
#include "hotfeast/serving/v1/serving.grpc.pb.h"

namespace {

using namespace hotfeast::serving::v1;

void set_deadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
}

RepeatedValue int64s(std::initializer_list<std::int64_t> values) {
  RepeatedValue column;
  for (const auto value : values) column.add_val()->set_int64_val(value);
  return column;
}

RepeatedValue doubles(std::initializer_list<double> values) {
  RepeatedValue column;
  for (const auto value : values) column.add_val()->set_double_val(value);
  return column;
}

// Times are in seconds since 1970.
RepeatedValue times(std::initializer_list<std::int64_t> values) {
  RepeatedValue column;
  for (const auto value : values) column.add_val()->set_unix_timestamp_val(value);
  return column;
}

// The shortest text that is this number and no other.
std::string shortest(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

// The value that is set; null has none.
std::string text(const Value& value) {
  switch (value.val_case()) {
    case Value::VAL_NOT_SET: return "-";
    case Value::kStringVal: return value.string_val();
    case Value::kInt32Val: return std::to_string(value.int32_val());
    case Value::kInt64Val: return std::to_string(value.int64_val());
    case Value::kDoubleVal: return shortest(value.double_val());
    case Value::kBoolVal: return value.bool_val() ? "true" : "false";
    default: return value.ShortDebugString();  // floats, times, bytes, lists, maps and so on
  }
}

// A line for each feature, with value and status for each row.
void print(const GetOnlineFeaturesResponse& answer) {
  for (int i = 0; i < answer.results_size(); ++i) {
    const auto& column = answer.results(i);
    std::cout << "  " << std::left << std::setw(30) << answer.metadata().feature_names().val(i);
    for (int row = 0; row < column.values_size(); ++row) {
      std::cout << (row ? " | " : " ") << text(column.values(row)) << " "
                << FieldStatus_Name(column.statuses(row));
    }
    std::cout << "\n";
  }
}

// Prints all features of a service for three households and products, with what the request says.
grpc::Status read_service(FeatureServing::Stub& serving, const std::string& service) {
  GetOnlineFeaturesRequest request;
  request.set_feature_service(service);
  auto& entities = *request.mutable_entities();
  entities["user_id"] = int64s({1453, 10, 999999});
  entities["product_id"] = int64s({1110572, 1082185, 999999999});
  auto& context = *request.mutable_request_context();
  context["cart_value_usd"] = doubles({42.5, 42.5, 12});
  context["cart_items_count"] = int64s({9, 9, 0});
  context["requested_at"] = times({1514764800, 1514764800, 1514764800});
  context["promotion_min_cart_usd"] = doubles({40, 40, 40});
  context["promotion_min_baskets_30d"] = int64s({4, 4, 4});

  grpc::ClientContext call;
  set_deadline(call);
  GetOnlineFeaturesResponse answer;
  const grpc::Status status = serving.GetOnlineFeatures(&call, request, &answer);
  if (status.ok()) {
    std::cout << service << ":\n";
    print(answer);
  }
  return status;
}

// Writes a row for a household that the data does not know, and reads it back.
grpc::Status push_row(FeatureServing::Stub& serving, Push::Stub& push) {
  PushRequest request;
  request.set_feature_view("user_product_interactions");
  auto& columns = *request.mutable_columns()->mutable_columns();
  columns["user_id"] = int64s({2500002});
  columns["product_id"] = int64s({1110572});
  columns["pair_baskets_count_90d"] = int64s({5});
  columns["pair_units_count_90d"] = int64s({7});
  columns["pair_revenue_usd_90d"] = doubles({20.25});
  columns["pair_days_since_last_purchase"] = int64s({0});
  request.mutable_columns()->add_event_timestamps()->set_seconds(std::time(nullptr));

  grpc::ClientContext call;
  set_deadline(call);
  PushResponse pushed;
  if (const auto status = push.Push(&call, request, &pushed); !status.ok()) return status;
  for (const auto outcome : pushed.outcomes()) {
    std::cout << "pushed: " << RowOutcome_Name(static_cast<RowOutcome>(outcome)) << "\n";
  }
  for (const auto& rejection : pushed.rejections()) {
    std::cout << "  row " << rejection.row() << ", " << rejection.field() << ": "
              << rejection.message() << "\n";
  }

  GetOnlineFeaturesRequest back;
  back.mutable_features()->add_val("user_product_interactions:pair_revenue_usd_90d");
  (*back.mutable_entities())["user_id"] = columns["user_id"];
  (*back.mutable_entities())["product_id"] = columns["product_id"];
  grpc::ClientContext second;
  set_deadline(second);
  GetOnlineFeaturesResponse answer;
  const grpc::Status status = serving.GetOnlineFeatures(&second, back, &answer);
  if (status.ok()) print(answer);
  return status;
}

// UNAVAILABLE and DEADLINE_EXCEEDED may pass: a model server goes on without features, or tries a
// read again.
int failed(const grpc::Status& status) {
  std::cerr << status.error_code() << ": " << status.error_message() << "\n";
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string address = count > 1 ? arguments[1] : "127.0.0.1:6570";
  auto credentials = grpc::InsecureChannelCredentials();
  if (count > 2) {
    std::ifstream file(arguments[2]);
    grpc::SslCredentialsOptions options;
    options.pem_root_certs.assign(std::istreambuf_iterator<char>(file), {});
    credentials = grpc::SslCredentials(options);
  }
  const auto channel = grpc::CreateChannel(address, credentials);
  const auto serving = FeatureServing::NewStub(channel);
  const auto push = Push::NewStub(channel);

  if (const auto status = read_service(*serving, "product_ranking"); !status.ok()) {
    return failed(status);
  }
  if (const auto status = push_row(*serving, *push); !status.ok()) return failed(status);
  const auto status = read_service(*serving, "product_rankin");
  if (status.error_code() != grpc::StatusCode::NOT_FOUND) return failed(status);
  std::cout << "not found: " << status.error_message() << "\n";
}
