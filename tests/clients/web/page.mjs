// The scenario of ../scenario.md in a web page: Connect-ES, which speaks gRPC-Web, with code made by protoc-gen-es.

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { BadRequestSchema, ErrorInfoSchema, PreconditionFailureSchema, ResourceInfoSchema } from "./google/rpc/error_details_pb.js";
import { FailureReasonSchema, JobService, JobStateSchema, TaskState, TaskStateSchema } from "./longshore/v1/job_pb.js";
import { NodeService } from "./longshore/v1/node_pb.js";

/** A transport that sends the visitor's certificate along. */
const transport = (server) =>
  createGrpcWebTransport({
    baseUrl: `https://${server}`,
    fetch: (input, init) => fetch(input, { ...init, credentials: "include" }),
  });

/** The name that the .proto file gives to a value. */
const name = (schema, value) => schema.value[value].name;

let jobs;
let nodes;

async function create(name_, archive, targets, startup = { settle: { nanos: 1e8 } }) {
  const spec = { name: name_, image: { source: { case: "archive", value: archive } }, startup };
  const { job } = await jobs.createJob({ spec, targets, rollout: { maxParallel: 1 } });
  const counts = Object.entries(job.counts).filter(([key]) => !key.startsWith("$"));
  const tasks = counts.reduce((sum, [, count]) => sum + count, 0);
  console.log(`created ${name_}: ${name(JobStateSchema, job.state)}, ${tasks} tasks`);
  return job;
}

async function watch({ jobId, spec }) {
  const tasks = new Map();
  let state;
  for await (const news of jobs.watchJob({ jobId })) {
    state = news.job.state;
    for (const task of news.tasks) tasks.set(task.nodeName, task);
  }
  console.log(`watched ${spec.name}: ${name(JobStateSchema, state)}`);
  for (const node of [...tasks.keys()].sort()) {
    const { state, attempt, failure } = tasks.get(node);
    const why = failure ? `, ${name(FailureReasonSchema, failure.reason)}` : "";
    console.log(`  ${node}: ${name(TaskStateSchema, state)}, attempt ${attempt}${why}`);
  }
}

async function breakOffAfter({ jobId, spec }, node) {
  const over = new AbortController();
  try {
    for await (const { tasks } of jobs.watchJob({ jobId }, { signal: over.signal })) {
      if (tasks.some((task) => task.nodeName === node && task.state === TaskState.SUCCEEDED)) over.abort();
    }
  } catch (error) {
    if (ConnectError.from(error).code !== Code.Canceled) throw error;
  }
  console.log(`broke off ${spec.name}`);
}

async function* listJobs(filter) {
  let pageToken = "";
  do {
    const page = await jobs.listJobs({ filter, pageSize: 1, pageToken });
    yield* page.jobs.map((job) => job.spec.name);
    pageToken = page.nextPageToken;
  } while (pageToken);
}

/** What each kind of detail says to programs. */
const words = [
  [ErrorInfoSchema, (detail) => detail.reason],
  [PreconditionFailureSchema, (detail) => detail.violations.map((violation) => violation.subject).join(" ")],
  [BadRequestSchema, (detail) => detail.fieldViolations.map((violation) => violation.field).join(" ")],
  [ResourceInfoSchema, (detail) => detail.resourceName],
];

async function refused(call) {
  const error = await call.then(
    () => { throw new Error("it was not refused"); },
    (error) => ConnectError.from(error),
  );
  const known = words.flatMap(([schema, word]) => error.findDetails(schema).map(word));
  const code = Code[error.code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
  console.log(`refused: ${[code, ...known].join(", ")}`);
}

/** Plays the scenario, all but its last line. */
globalThis.play = async (server) => {
  jobs = createClient(JobService, transport(server));
  nodes = createClient(NodeService, transport(server));

  const selected = { selector: "role=till" };
  const till = await create("till", "/images/till.tar", selected);
  await watch(till);

  const shop = { nodeNames: ["shop-1"] };
  const startup = { settle: { seconds: 1n }, maxStarts: 1 };
  const flaky = await create("flaky", "/images/flaky.tar?exit=7&runs=1", shop, startup);
  await watch(flaky);
  const retried = await jobs.retryJob({ jobId: flaky.jobId });
  console.log(`retried flaky: ${name(JobStateSchema, retried.job.state)}`);
  await watch(flaky);

  const late = await create("late", "/images/till.tar", { nodeNames: ["shop-1", "depot-1"] });
  await breakOffAfter(late, "shop-1");
  const stopped = await jobs.stopJob({ jobId: late.jobId });
  console.log(`stopped late: ${name(JobStateSchema, stopped.job.state)}`);
  await watch(late);
  const resumed = await jobs.resumeJob({ jobId: late.jobId });
  console.log(`resumed late: ${name(JobStateSchema, resumed.job.state)}`);
  await watch(late);

  const listed = [];
  for await (const job of listJobs("state = SUCCEEDED AND spec.name != till")) listed.push(job);
  console.log(`listed jobs: ${listed.join(" ")}`);
  const some = await nodes.listNodes({ filter: "labels.role = till AND connected = true" });
  console.log(`listed nodes: ${some.nodes.map((node) => node.name).join(" ")}`);
  const { tasks } = await jobs.listTasks({ jobId: late.jobId, filter: "node_name = depot-1" });
  console.log(`listed tasks: ${tasks.map((task) => task.nodeName).join(" ")}`);

  await refused(jobs.stopJob({ jobId: late.jobId }));
  const image = { source: { case: "archive", value: "till.tar" } };
  await refused(jobs.createJob({ spec: { name: "Till", image }, targets: shop, timeout: { nanos: 1e8 } }));
  await refused(jobs.getJob({ jobId: "0".repeat(26) }));
  await refused(jobs.retryJob({ jobId: late.jobId, etag: "1" }));
};

/** Calls as a page may that is allowed to. */
globalThis.look = async (server) => {
  const { jobs: found } = await createClient(JobService, transport(server)).listJobs({});
  console.log(`saw ${found.length} jobs`);
};

/** Calls for a visitor who has no certificate: the last line of the scenario. */
globalThis.knock = async (server) => {
  await createClient(JobService, transport(server)).listJobs({}).catch((error) => {
    const isRefused = ConnectError.from(error).code === Code.Unauthenticated;
    console.log(`without a certificate: ${isRefused ? "refused" : error}`);
  });
};

/** Tries to act with the visitor's certificate, as a page does that is not allowed to. */
globalThis.trespass = async (server) => {
  const nodes = createClient(NodeService, transport(server));
  await nodes.createEnrollmentToken({}).then(
    () => console.log("called"),
    (error) => console.log(`kept from calling: ${error.rawMessage}`),
  );
  // What a browser sends without asking: a message without fields, in the frame that gRPC has for it.
  const url = `https://${server}/longshore.v1.NodeService/CreateEnrollmentToken`;
  const body = new Blob([new Uint8Array(5)], { type: "text/plain" });
  const answer = await fetch(url, { method: "POST", mode: "no-cors", credentials: "include", body });
  console.log(`sent, and saw nothing of the answer: ${answer.type}`);
};
