// The scenario of ../scenario.md in Go: grpc-go, with stubs by protoc-gen-go and protoc-gen-go-grpc.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "longshore/v1"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func file(name string) string {
	return filepath.Join(os.Getenv("LONGSHORE_CREDENTIALS"), name)
}

func dial(certificates ...tls.Certificate) *grpc.ClientConn {
	root, err := os.ReadFile(file("root.crt"))
	must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	config := &tls.Config{RootCAs: roots, Certificates: certificates, MinVersion: tls.VersionTLS13}
	conn, err := grpc.Dial(os.Getenv("LONGSHORE_SERVER"), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	must(err)
	return conn
}

type client struct {
	context.Context
	jobs pb.JobServiceClient
}

func (c client) create(name, archive string, targets *pb.Targets, startup *pb.Startup) *pb.Job {
	answer, err := c.jobs.CreateJob(c, &pb.CreateJobRequest{
		Spec: &pb.AppSpec{
			Name:    name,
			Image:   &pb.Image{Source: &pb.Image_Archive{Archive: archive}},
			Startup: startup,
		},
		Targets: targets,
		Rollout: &pb.Rollout{MaxParallel: 1},
	})
	must(err)
	n := answer.Job.Counts
	tasks := n.Pending + n.Active + n.Succeeded + n.Failed + n.TimedOut + n.Cancelled
	fmt.Printf("created %s: %s, %d tasks\n", name, answer.Job.State, tasks)
	return answer.Job
}

func (c client) watch(job *pb.Job) {
	stream, err := c.jobs.WatchJob(c, &pb.WatchJobRequest{JobId: job.JobId})
	must(err)
	tasks := map[string]*pb.Task{}
	for {
		news, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		must(err)
		job = news.Job
		for _, task := range news.Tasks {
			tasks[task.NodeName] = task
		}
	}
	fmt.Printf("watched %s: %s\n", job.Spec.Name, job.State)
	names := []string{}
	for name := range tasks {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		task, why := tasks[name], ""
		if task.Failure != nil {
			why = ", " + task.Failure.Reason.String()
		}
		fmt.Printf("  %s: %s, attempt %d%s\n", name, task.State, task.Attempt, why)
	}
}

func (c client) breakOffAfter(job *pb.Job, node string) {
	watching, cancel := context.WithCancel(c)
	defer cancel()
	stream, err := c.jobs.WatchJob(watching, &pb.WatchJobRequest{JobId: job.JobId})
	must(err)
	for done := false; !done; {
		news, err := stream.Recv()
		must(err)
		for _, task := range news.Tasks {
			done = done || task.NodeName == node && task.State == pb.TaskState_TASK_STATE_SUCCEEDED
		}
	}
	fmt.Printf("broke off %s\n", job.Spec.Name)
}

func (c client) listJobs(filter string) string {
	names, token := []string{}, ""
	for {
		page, err := c.jobs.ListJobs(c, &pb.ListJobsRequest{Filter: filter, PageSize: 1, PageToken: token})
		must(err)
		for _, job := range page.Jobs {
			names = append(names, job.Spec.Name)
		}
		if token = page.NextPageToken; token == "" {
			return strings.Join(names, " ")
		}
	}
}

// Prints what a refusal says to programs.
func refused(err error) {
	refusal, ok := status.FromError(err)
	if err == nil || !ok {
		log.Fatalf("not refused: %v", err)
	}
	words := []string{code.Code(refusal.Code()).String()}
	for _, detail := range refusal.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			words = append(words, detail.Reason)
		case *errdetails.PreconditionFailure:
			subjects := []string{}
			for _, violation := range detail.Violations {
				subjects = append(subjects, violation.Subject)
			}
			words = append(words, strings.Join(subjects, " "))
		case *errdetails.BadRequest:
			fields := []string{}
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
			words = append(words, strings.Join(fields, " "))
		case *errdetails.ResourceInfo:
			words = append(words, detail.ResourceName)
		}
	}
	fmt.Printf("refused: %s\n", strings.Join(words, ", "))
}

func main() {
	certificate, err := tls.LoadX509KeyPair(file("client.crt"), file("client.key"))
	must(err)
	conn := dial(certificate)
	defer conn.Close()
	ctx := context.Background()
	c := client{ctx, pb.NewJobServiceClient(conn)}

	short := &pb.Startup{Settle: durationpb.New(100 * time.Millisecond)}
	till := c.create("till", "/images/till.tar", &pb.Targets{Selector: "role=till"}, short)
	c.watch(till)

	shop := &pb.Targets{NodeNames: []string{"shop-1"}}
	once := &pb.Startup{Settle: durationpb.New(time.Second), MaxStarts: 1}
	flaky := c.create("flaky", "/images/flaky.tar?exit=7&runs=1", shop, once)
	c.watch(flaky)
	retried, err := c.jobs.RetryJob(ctx, &pb.RetryJobRequest{JobId: flaky.JobId})
	must(err)
	fmt.Printf("retried flaky: %s\n", retried.Job.State)
	c.watch(flaky)

	late := c.create("late", "/images/till.tar", &pb.Targets{NodeNames: []string{"shop-1", "depot-1"}}, short)
	c.breakOffAfter(late, "shop-1")
	stopped, err := c.jobs.StopJob(ctx, &pb.StopJobRequest{JobId: late.JobId})
	must(err)
	fmt.Printf("stopped late: %s\n", stopped.Job.State)
	c.watch(late)
	resumed, err := c.jobs.ResumeJob(ctx, &pb.ResumeJobRequest{JobId: late.JobId})
	must(err)
	fmt.Printf("resumed late: %s\n", resumed.Job.State)
	c.watch(late)

	fmt.Printf("listed jobs: %s\n", c.listJobs("state = SUCCEEDED AND spec.name != till"))
	nodes, err := pb.NewNodeServiceClient(conn).ListNodes(ctx, &pb.ListNodesRequest{
		Filter: "labels.role = till AND connected = true",
	})
	must(err)
	fmt.Print("listed nodes:")
	for _, node := range nodes.Nodes {
		fmt.Print(" ", node.Name)
	}
	tasks, err := c.jobs.ListTasks(ctx, &pb.ListTasksRequest{JobId: late.JobId, Filter: "node_name = depot-1"})
	must(err)
	fmt.Print("\nlisted tasks:")
	for _, task := range tasks.Tasks {
		fmt.Print(" ", task.NodeName)
	}
	fmt.Println()

	_, err = c.jobs.StopJob(ctx, &pb.StopJobRequest{JobId: late.JobId})
	refused(err)
	_, err = c.jobs.CreateJob(ctx, &pb.CreateJobRequest{
		Spec: &pb.AppSpec{
			Name:  "Till",
			Image: &pb.Image{Source: &pb.Image_Archive{Archive: "till.tar"}},
		},
		Targets: shop,
		Timeout: durationpb.New(100 * time.Millisecond),
	})
	refused(err)
	_, err = c.jobs.GetJob(ctx, &pb.GetJobRequest{JobId: strings.Repeat("0", 26)})
	refused(err)
	_, err = c.jobs.RetryJob(ctx, &pb.RetryJobRequest{JobId: late.JobId, Etag: "1"})
	refused(err)

	stranger := dial()
	defer stranger.Close()
	if _, err = pb.NewJobServiceClient(stranger).ListJobs(ctx, &pb.ListJobsRequest{}); err != nil {
		fmt.Println("without a certificate: refused")
	}
}
