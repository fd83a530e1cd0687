// The scenario of ../scenario.md in JavaScript: @grpc/grpc-js, with the .proto files read by @grpc/proto-loader.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const server = process.env.LONGSHORE_SERVER;
const file = (name) => readFileSync(join(process.env.LONGSHORE_CREDENTIALS, name));

// PROTO_PATH: directories with the API's files and google/rpc/error_details.proto.
const files = ["longshore/v1/job.proto", "longshore/v1/node.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"];
const includeDirs = process.env.PROTO_PATH.split(":");
const loaded = loadSync(files, { includeDirs, keepCase: true, enums: String, defaults: true, oneofs: true });
const { longshore } = grpc.loadPackageDefinition(loaded);

const credentials = grpc.credentials.createSsl(file("root.crt"), file("client.key"), file("client.crt"));
const jobs = new longshore.v1.JobService(server, credentials);
const nodes = new longshore.v1.NodeService(server, credentials);

/** Calls a method that answers once. */
const call = (service, method, request) => promisify(service[method]).call(service, request);

async function create(name, archive, targets, startup = { settle: { nanos: 1e8 } }) {
  const spec = { name, image: { archive }, startup };
  const { job } = await call(jobs, "CreateJob", { spec, targets, rollout: { max_parallel: 1 } });
  const tasks = Object.values(job.counts).reduce((sum, count) => sum + count);
  console.log(`created ${name}: ${job.state}, ${tasks} tasks`);
  return job;
}

async function watch({ job_id, spec }) {
  const tasks = new Map();
  let state;
  for await (const news of jobs.WatchJob({ job_id })) {
    state = news.job.state;
    for (const task of news.tasks) tasks.set(task.node_name, task);
  }
  console.log(`watched ${spec.name}: ${state}`);
  for (const name of [...tasks.keys()].sort()) {
    const { state, attempt, failure } = tasks.get(name);
    console.log(`  ${name}: ${state}, attempt ${attempt}${failure ? `, ${failure.reason}` : ""}`);
  }
}

async function breakOffAfter({ job_id, spec }, node) {
  const watching = jobs.WatchJob({ job_id });
  watching.on("error", (error) => {
    if (error.code !== grpc.status.CANCELLED) throw error;
  });
  await new Promise((resolve) => {
    watching.on("data", ({ tasks }) => {
      if (tasks.some((task) => task.node_name === node && task.state === "TASK_STATE_SUCCEEDED")) resolve();
    });
  });
  watching.cancel();
  console.log(`broke off ${spec.name}`);
}

async function* listJobs(filter) {
  let page_token = "";
  do {
    const page = await call(jobs, "ListJobs", { filter, page_size: 1, page_token });
    yield* page.jobs.map((job) => job.spec.name);
    page_token = page.next_page_token;
  } while (page_token);
}

/** What each kind of detail says to programs. */
const words = {
  ErrorInfo: (detail) => detail.reason,
  PreconditionFailure: (detail) => detail.violations.map((violation) => violation.subject).join(" "),
  BadRequest: (detail) => detail.field_violations.map((violation) => violation.field).join(" "),
  ResourceInfo: (detail) => detail.resource_name,
};

async function refused(method, request) {
  const error = await call(jobs, method, request).then(
    () => { throw new Error(`${method} was not refused`); },
    (error) => error,
  );
  const [status] = error.metadata.get("grpc-status-details-bin");
  const details = loaded["google.rpc.Status"].deserialize(status).details.map(({ type_url, value }) => {
    const type = type_url.split("/").pop();
    return words[type.split(".").pop()]?.(loaded[type].deserialize(value));
  });
  const known = details.filter((word) => word !== undefined);
  console.log(`refused: ${[grpc.status[error.code], ...known].join(", ")}`);
}

const till = await create("till", "/images/till.tar", { selector: "role=till" });
await watch(till);

const shop = { node_names: ["shop-1"] };
const flaky = await create("flaky", "/images/flaky.tar?exit=7&runs=1", shop, { settle: { seconds: 1 }, max_starts: 1 });
await watch(flaky);
const retried = await call(jobs, "RetryJob", { job_id: flaky.job_id });
console.log(`retried flaky: ${retried.job.state}`);
await watch(flaky);

const late = await create("late", "/images/till.tar", { node_names: ["shop-1", "depot-1"] });
await breakOffAfter(late, "shop-1");
const stopped = await call(jobs, "StopJob", { job_id: late.job_id });
console.log(`stopped late: ${stopped.job.state}`);
await watch(late);
const resumed = await call(jobs, "ResumeJob", { job_id: late.job_id });
console.log(`resumed late: ${resumed.job.state}`);
await watch(late);

const listed = [];
for await (const name of listJobs("state = SUCCEEDED AND spec.name != till")) listed.push(name);
console.log(`listed jobs: ${listed.join(" ")}`);
const some = await call(nodes, "ListNodes", { filter: "labels.role = till AND connected = true" });
console.log(`listed nodes: ${some.nodes.map((node) => node.name).join(" ")}`);
const { tasks } = await call(jobs, "ListTasks", { job_id: late.job_id, filter: "node_name = depot-1" });
console.log(`listed tasks: ${tasks.map((task) => task.node_name).join(" ")}`);

await refused("StopJob", { job_id: late.job_id });
await refused("CreateJob", { spec: { name: "Till", image: { archive: "till.tar" } }, targets: shop, timeout: { nanos: 1e8 } });
await refused("GetJob", { job_id: "0".repeat(26) });
await refused("RetryJob", { job_id: late.job_id, etag: "1" });

const stranger = new longshore.v1.JobService(server, grpc.credentials.createSsl(file("root.crt")));
await call(stranger, "ListJobs", {}).catch(() => console.log("without a certificate: refused"));
for (const client of [jobs, nodes, stranger]) client.close();
