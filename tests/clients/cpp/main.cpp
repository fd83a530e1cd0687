// The scenario of ../scenario.md in C++: gRPC, with stubs by protoc and grpc_cpp_plugin.

#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "longshore/v1/job.grpc.pb.h"
#include "longshore/v1/node.grpc.pb.h"

using namespace longshore::v1;
using grpc::ClientContext;
using grpc::Status;

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) throw std::runtime_error(std::string(name) + " is not set");
  return value;
}

std::string file(const std::string& name) {
  std::ifstream stream(environment("LONGSHORE_CREDENTIALS") + "/" + name);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::shared_ptr<grpc::Channel> connect(const std::string& key, const std::string& certificate) {
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = file("root.crt");
  options.pem_private_key = key;
  options.pem_cert_chain = certificate;
  return grpc::CreateChannel(environment("LONGSHORE_SERVER"), grpc::SslCredentials(options));
}

void must(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.error_message());
}

std::string join(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

// Calls a method that answers once, such as &JobService::Stub::GetJob.
template <typename Stub, typename Request, typename Response>
Response call(Stub& stub, Status (Stub::*method)(ClientContext*, const Request&, Response*), const Request& request) {
  ClientContext context;
  Response response;
  must((stub.*method)(&context, request, &response));
  return response;
}

Targets nodes_named(const std::vector<std::string>& names) {
  Targets targets;
  targets.mutable_node_names()->Add(names.begin(), names.end());
  return targets;
}

Job create(JobService::Stub& jobs, const std::string& name, const std::string& archive, const Targets& targets,
           const Startup& startup) {
  CreateJobRequest request;
  request.mutable_spec()->set_name(name);
  request.mutable_spec()->mutable_image()->set_archive(archive);
  *request.mutable_spec()->mutable_startup() = startup;
  *request.mutable_targets() = targets;
  request.mutable_rollout()->set_max_parallel(1);
  Job job = call(jobs, &JobService::Stub::CreateJob, request).job();
  const TaskCounts& n = job.counts();
  const auto tasks = n.pending() + n.active() + n.succeeded() + n.failed() + n.timed_out() + n.cancelled();
  std::cout << "created " << name << ": " << JobState_Name(job.state()) << ", " << tasks << " tasks" << std::endl;
  return job;
}

void watch(JobService::Stub& jobs, const Job& job) {
  ClientContext context;
  WatchJobRequest request;
  request.set_job_id(job.job_id());
  auto reader = jobs.WatchJob(&context, request);
  std::map<std::string, Task> tasks;
  WatchJobResponse news;
  JobState state = JOB_STATE_UNSPECIFIED;
  while (reader->Read(&news)) {
    state = news.job().state();
    for (const Task& task : news.tasks()) tasks[task.node_name()] = task;
  }
  must(reader->Finish());
  std::cout << "watched " << job.spec().name() << ": " << JobState_Name(state) << std::endl;
  for (const auto& [name, task] : tasks) {
    std::cout << "  " << name << ": " << TaskState_Name(task.state()) << ", attempt " << task.attempt();
    if (task.has_failure()) std::cout << ", " << FailureReason_Name(task.failure().reason());
    std::cout << std::endl;
  }
}

void break_off_after(JobService::Stub& jobs, const Job& job, const std::string& node) {
  ClientContext context;
  WatchJobRequest request;
  request.set_job_id(job.job_id());
  auto reader = jobs.WatchJob(&context, request);
  WatchJobResponse news;
  bool done = false;
  while (!done && reader->Read(&news)) {
    for (const Task& task : news.tasks()) done |= task.node_name() == node && task.state() == TASK_STATE_SUCCEEDED;
  }
  context.TryCancel();
  if (reader->Finish().error_code() != grpc::StatusCode::CANCELLED) throw std::runtime_error("not cancelled");
  std::cout << "broke off " << job.spec().name() << std::endl;
}

std::string list_jobs(JobService::Stub& jobs, const std::string& filter) {
  std::vector<std::string> names;
  ListJobsRequest request;
  request.set_filter(filter);
  request.set_page_size(1);
  do {
    const auto page = call(jobs, &JobService::Stub::ListJobs, request);
    for (const Job& job : page.jobs()) names.push_back(job.spec().name());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return join(names, " ");
}

// What a detail says to programs; empty for kinds that the scenario does not ask for.
std::string word_of(const google::protobuf::Any& detail) {
  std::vector<std::string> words;
  google::rpc::ErrorInfo info;
  google::rpc::PreconditionFailure precondition;
  google::rpc::BadRequest request;
  google::rpc::ResourceInfo resource;
  if (detail.UnpackTo(&info)) return info.reason();
  if (detail.UnpackTo(&resource)) return resource.resource_name();
  if (detail.UnpackTo(&precondition)) {
    for (const auto& violation : precondition.violations()) words.push_back(violation.subject());
  }
  if (detail.UnpackTo(&request)) {
    for (const auto& violation : request.field_violations()) words.push_back(violation.field());
  }
  return join(words, " ");
}

template <typename Request, typename Response>
void refused(JobService::Stub& jobs, Status (JobService::Stub::*method)(ClientContext*, const Request&, Response*),
             const Request& request) {
  ClientContext context;
  Response response;
  const Status status = (jobs.*method)(&context, request, &response);
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  std::vector<std::string> words{google::rpc::Code_Name(static_cast<google::rpc::Code>(status.error_code()))};
  for (const auto& detail : details.details()) {
    if (const std::string word = word_of(detail); !word.empty()) words.push_back(word);
  }
  std::cout << "refused: " << join(words, ", ") << std::endl;
}

void run() {
  auto channel = connect(file("client.key"), file("client.crt"));
  JobService::Stub jobs(channel);
  NodeService::Stub nodes(channel);

  Startup startup;
  startup.mutable_settle()->set_nanos(100'000'000);
  Targets tills;
  tills.set_selector("role=till");
  const Job till = create(jobs, "till", "/images/till.tar", tills, startup);
  watch(jobs, till);

  Startup once;
  once.mutable_settle()->set_seconds(1);
  once.set_max_starts(1);
  const Job flaky = create(jobs, "flaky", "/images/flaky.tar?exit=7&runs=1", nodes_named({"shop-1"}), once);
  watch(jobs, flaky);
  RetryJobRequest retry;
  retry.set_job_id(flaky.job_id());
  const Job retried = call(jobs, &JobService::Stub::RetryJob, retry).job();
  std::cout << "retried flaky: " << JobState_Name(retried.state()) << std::endl;
  watch(jobs, flaky);

  const Job late = create(jobs, "late", "/images/till.tar", nodes_named({"shop-1", "depot-1"}), startup);
  break_off_after(jobs, late, "shop-1");
  StopJobRequest stop;
  stop.set_job_id(late.job_id());
  const Job stopped = call(jobs, &JobService::Stub::StopJob, stop).job();
  std::cout << "stopped late: " << JobState_Name(stopped.state()) << std::endl;
  watch(jobs, late);
  ResumeJobRequest resume;
  resume.set_job_id(late.job_id());
  const Job resumed = call(jobs, &JobService::Stub::ResumeJob, resume).job();
  std::cout << "resumed late: " << JobState_Name(resumed.state()) << std::endl;
  watch(jobs, late);

  std::cout << "listed jobs: " << list_jobs(jobs, "state = SUCCEEDED AND spec.name != till") << std::endl;
  ListNodesRequest connected;
  connected.set_filter("labels.role = till AND connected = true");
  std::vector<std::string> names;
  const auto some = call(nodes, &NodeService::Stub::ListNodes, connected);
  for (const Node& node : some.nodes()) names.push_back(node.name());
  std::cout << "listed nodes: " << join(names, " ") << std::endl;
  ListTasksRequest of_depot;
  of_depot.set_job_id(late.job_id());
  of_depot.set_filter("node_name = depot-1");
  names.clear();
  const auto page = call(jobs, &JobService::Stub::ListTasks, of_depot);
  for (const Task& task : page.tasks()) names.push_back(task.node_name());
  std::cout << "listed tasks: " << join(names, " ") << std::endl;

  refused(jobs, &JobService::Stub::StopJob, stop);
  CreateJobRequest wrong;
  wrong.mutable_spec()->set_name("Till");
  wrong.mutable_spec()->mutable_image()->set_archive("till.tar");
  *wrong.mutable_targets() = nodes_named({"shop-1"});
  wrong.mutable_timeout()->set_nanos(100'000'000);
  refused(jobs, &JobService::Stub::CreateJob, wrong);
  GetJobRequest unknown;
  unknown.set_job_id(std::string(26, '0'));
  refused(jobs, &JobService::Stub::GetJob, unknown);
  retry.set_job_id(late.job_id());
  retry.set_etag("1");
  refused(jobs, &JobService::Stub::RetryJob, retry);

  JobService::Stub stranger(connect("", ""));
  ClientContext context;
  ListJobsResponse answer;
  if (!stranger.ListJobs(&context, ListJobsRequest(), &answer).ok()) {
    std::cout << "without a certificate: refused" << std::endl;
  }
}

}  // namespace

int main() {
  try {
    run();
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
