// Reads features from a Hotfeast gateway, pushes a row and handles an error:
//
//     npm ci
//     node main.js [HOST:PORT] [CA.pem]
//
// It asks for what `make serve` serves. With the certificate of an authority it speaks TLS.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address = "127.0.0.1:6570", ca] = process.argv.slice(2);
const DEADLINE_MS = 5000;

// The stubs are made from the .proto files when the program starts.
const definitions = protoLoader.loadSync(
  ["hotfeast/serving/v1/serving.proto", "hotfeast/serving/v1/push.proto"],
  {
    includeDirs: [fileURLToPath(new URL("../../../protos", import.meta.url))],
    keepCase: true,
    longs: String, // a number would not hold all of an int64
    enums: String,
    oneofs: true,
    arrays: true,
  },
);
const { FeatureServing, Push } = grpc.loadPackageDefinition(definitions).hotfeast.serving.v1;
const credentials = ca
  ? grpc.credentials.createSsl(readFileSync(ca))
  : grpc.credentials.createInsecure();
const serving = new FeatureServing(address, credentials);
const push = new Push(address, credentials);

/** Calls a unary method. What it is rejected with has `code` and `details`. */
function call(client, method, request) {
  const deadline = Date.now() + DEADLINE_MS;
  return new Promise((resolve, reject) => {
    client[method](request, { deadline }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

/** A column of values of one type, such as `column("int64_val", 1, 2)`. */
function column(type, ...values) {
  return { val: values.map((value) => ({ [type]: value })) };
}

/** The value that is set, as text; null has none. */
function text(value) {
  if (!value.val) return "-";
  const set = value[value.val];
  return typeof set === "object" ? JSON.stringify(set) : String(set);
}

/** Prints a line for each feature, with value and status for each row. */
function print({ metadata, results }) {
  metadata.feature_names.val.forEach((name, i) => {
    const { values, statuses } = results[i];
    const cells = values.map((value, row) => `${text(value)} ${statuses[row]}`);
    console.log(`  ${name.padEnd(30)} ${cells.join(" | ")}`);
  });
}

/** All features of a service for three households and products, with what the request says. */
async function readService(featureService) {
  const answer = await call(serving, "GetOnlineFeatures", {
    feature_service: featureService,
    entities: {
      user_id: column("int64_val", 1453, 10, 999999),
      product_id: column("int64_val", 1110572, 1082185, 999999999),
    },
    request_context: {
      cart_value_usd: column("double_val", 42.5, 42.5, 12),
      cart_items_count: column("int64_val", 9, 9, 0),
      requested_at: column("unix_timestamp_val", 1514764800, 1514764800, 1514764800),
      promotion_min_cart_usd: column("double_val", 40, 40, 40),
      promotion_min_baskets_30d: column("int64_val", 4, 4, 4),
    },
  });
  console.log(`${featureService}:`);
  print(answer);
}

/** A row for a household that the data does not know, and the same read back. */
async function pushRow() {
  const keys = {
    user_id: column("int64_val", 2500002),
    product_id: column("int64_val", 1110572),
  };
  const pushed = await call(push, "Push", {
    feature_view: "user_product_interactions",
    columns: {
      columns: {
        ...keys,
        pair_baskets_count_90d: column("int64_val", 5),
        pair_units_count_90d: column("int64_val", 7),
        pair_revenue_usd_90d: column("double_val", 20.25),
        pair_days_since_last_purchase: column("int64_val", 0),
      },
      event_timestamps: [{ seconds: Math.floor(Date.now() / 1000) }],
    },
  });
  console.log(`pushed: ${pushed.outcomes.join(", ")}`);
  for (const { row, field, message } of pushed.rejections) {
    console.log(`  row ${row}, ${field}: ${message}`);
  }
  print(
    await call(serving, "GetOnlineFeatures", {
      features: { val: ["user_product_interactions:pair_revenue_usd_90d"] },
      entities: keys,
    }),
  );
}

try {
  await readService("product_ranking");
  await pushRow();
  try {
    await readService("product_rankin");
  } catch (error) {
    if (error.code !== grpc.status.NOT_FOUND) throw error;
    console.log(`not found: ${error.details}`);
  }
} catch (error) {
  if (error.code === undefined) throw error;
  // UNAVAILABLE and DEADLINE_EXCEEDED may pass: a model server goes on without features, or tries a
  // read again.
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
} finally {
  serving.close();
  push.close();
}
