"""The scenario of ../scenario.md in Python: grpcio, with stubs by grpcio-tools."""

import os
import pathlib

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, ResourceInfo
from grpc_status import rpc_status
from longshore.v1 import job_pb2, node_pb2, spec_pb2
from longshore.v1.job_pb2_grpc import JobServiceStub
from longshore.v1.node_pb2_grpc import NodeServiceStub

SERVER = os.environ["LONGSHORE_SERVER"]
FILES = pathlib.Path(os.environ["LONGSHORE_CREDENTIALS"])


def credentials():
    return grpc.ssl_channel_credentials(
        root_certificates=(FILES / "root.crt").read_bytes(),
        private_key=(FILES / "client.key").read_bytes(),
        certificate_chain=(FILES / "client.crt").read_bytes(),
    )


def say(text):
    print(text, flush=True)


def state(job):
    return job_pb2.JobState.Name(job.state)


def create(jobs, name, archive, targets, settle=0.1, **more):
    startup = spec_pb2.Startup(settle=Duration(nanos=int(settle * 1e9) % 10**9, seconds=int(settle)), **more)
    spec = spec_pb2.AppSpec(name=name, image=spec_pb2.Image(archive=archive), startup=startup)
    rollout = job_pb2.Rollout(max_parallel=1)
    job = jobs.CreateJob(job_pb2.CreateJobRequest(spec=spec, targets=targets, rollout=rollout)).job
    counts = job.counts
    tasks = counts.pending + counts.active + counts.succeeded + counts.failed + counts.timed_out + counts.cancelled
    say(f"created {name}: {state(job)}, {tasks} tasks")
    return job


def watch(jobs, job):
    tasks = {}
    for news in jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.job_id)):
        tasks.update((task.node_name, task) for task in news.tasks)
    say(f"watched {job.spec.name}: {state(news.job)}")
    for name, task in sorted(tasks.items()):
        why = f", {job_pb2.FailureReason.Name(task.failure.reason)}" if task.HasField("failure") else ""
        say(f"  {name}: {job_pb2.TaskState.Name(task.state)}, attempt {task.attempt}{why}")


def break_off_after(jobs, job, node):
    watching = jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.job_id))
    for news in watching:
        if any(t.node_name == node and t.state == job_pb2.TASK_STATE_SUCCEEDED for t in news.tasks):
            watching.cancel()
            break
    say(f"broke off {job.spec.name}")


def list_jobs(jobs, filter):
    request = job_pb2.ListJobsRequest(filter=filter, page_size=1)
    while True:
        page = jobs.ListJobs(request)
        yield from (job.spec.name for job in page.jobs)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def refused(call, request):
    try:
        call(request)
    except grpc.RpcError as error:
        words = []
        for detail in rpc_status.from_call(error).details:
            for kind in (ErrorInfo, PreconditionFailure, BadRequest, ResourceInfo):
                if detail.Is(kind.DESCRIPTOR):
                    words.append(word_of(kind.FromString(detail.value)))
        say(f"refused: {', '.join([error.code().name, *words])}")


def word_of(detail):
    match detail:
        case ErrorInfo():
            return detail.reason
        case PreconditionFailure():
            return " ".join(violation.subject for violation in detail.violations)
        case BadRequest():
            return " ".join(violation.field for violation in detail.field_violations)
        case ResourceInfo():
            return detail.resource_name


with grpc.secure_channel(SERVER, credentials()) as channel:
    jobs, nodes = JobServiceStub(channel), NodeServiceStub(channel)

    till = create(jobs, "till", "/images/till.tar", job_pb2.Targets(selector="role=till"))
    watch(jobs, till)

    shop = job_pb2.Targets(node_names=["shop-1"])
    flaky = create(jobs, "flaky", "/images/flaky.tar?exit=7&runs=1", shop, settle=1, max_starts=1)
    watch(jobs, flaky)
    retried = jobs.RetryJob(job_pb2.RetryJobRequest(job_id=flaky.job_id)).job
    say(f"retried flaky: {state(retried)}")
    watch(jobs, flaky)

    late = create(jobs, "late", "/images/till.tar", job_pb2.Targets(node_names=["shop-1", "depot-1"]))
    break_off_after(jobs, late, "shop-1")
    stopped = jobs.StopJob(job_pb2.StopJobRequest(job_id=late.job_id)).job
    say(f"stopped late: {state(stopped)}")
    watch(jobs, late)
    resumed = jobs.ResumeJob(job_pb2.ResumeJobRequest(job_id=late.job_id)).job
    say(f"resumed late: {state(resumed)}")
    watch(jobs, late)

    say(f"listed jobs: {' '.join(list_jobs(jobs, 'state = SUCCEEDED AND spec.name != till'))}")
    page = nodes.ListNodes(node_pb2.ListNodesRequest(filter="labels.role = till AND connected = true"))
    say(f"listed nodes: {' '.join(node.name for node in page.nodes)}")
    page = jobs.ListTasks(job_pb2.ListTasksRequest(job_id=late.job_id, filter="node_name = depot-1"))
    say(f"listed tasks: {' '.join(task.node_name for task in page.tasks)}")

    refused(jobs.StopJob, job_pb2.StopJobRequest(job_id=late.job_id))
    spec = spec_pb2.AppSpec(name="Till", image=spec_pb2.Image(archive="till.tar"))
    wrong = job_pb2.CreateJobRequest(spec=spec, targets=shop, timeout=Duration(nanos=10**8))
    refused(jobs.CreateJob, wrong)
    refused(jobs.GetJob, job_pb2.GetJobRequest(job_id="0" * 26))
    refused(jobs.RetryJob, job_pb2.RetryJobRequest(job_id=late.job_id, etag="1"))

stranger = grpc.ssl_channel_credentials((FILES / "root.crt").read_bytes())
with grpc.secure_channel(SERVER, stranger) as channel:
    try:
        JobServiceStub(channel).ListJobs(job_pb2.ListJobsRequest())
    except grpc.RpcError:
        say("without a certificate: refused")
