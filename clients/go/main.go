// The whole path: data, training, serving, a prediction and its trace.
//
//	AIOS_ADDRESS=http://127.0.0.1:8080 AIOS_TOKEN=... build/aios-client FOLDER NAME
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"

	datav1 "aios.dev/gen/aios/data/v1"
	identityv1 "aios.dev/gen/aios/identity/v1"
	inferencev1 "aios.dev/gen/aios/inference/v1"
	telemetryv1 "aios.dev/gen/aios/telemetry/v1"
	trainerv1 "aios.dev/gen/aios/trainer/v1"
	oip "aios.dev/gen/inference"
)

// platform has a stub for each service.
type platform struct {
	project   string
	data      datav1.DataServiceClient
	trainer   trainerv1.TrainerServiceClient
	inference inferencev1.InferenceServiceClient
	traces    telemetryv1.TraceServiceClient
	predictor oip.GRPCInferenceServiceClient
}

// seen is what the program prints.
type seen struct {
	Language     string   `json:"language"`
	Subject      string   `json:"subject"`
	Project      string   `json:"project"`
	Dataset      string   `json:"dataset"`
	Refused      refusal  `json:"refused"`
	Run          string   `json:"run"`
	Replayed     bool     `json:"replayed"`
	States       []string `json:"states"`
	Points       int      `json:"points"`
	ModelVersion string   `json:"modelVersion"`
	Deployment   string   `json:"deployment"`
	Label        int      `json:"label"`
	TraceID      string   `json:"traceId"`
	Spans        int      `json:"spans"`
	Deadline     string   `json:"deadline"`
	Cancelled    string   `json:"cancelled"`
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: aios-client FOLDER NAME")
		os.Exit(2)
	}
	conn, err := dial(setting("AIOS_ADDRESS", "http://127.0.0.1:8080"), setting("AIOS_TOKEN", ""))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	result, err := run(context.Background(), conn, os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		log.Fatal(err)
	}
}

func setting(name, otherwise string) string {
	if value, set := os.LookupEnv(name); set {
		return value
	}
	return otherwise
}

func run(ctx context.Context, conn *grpc.ClientConn, folder, name string) (*seen, error) {
	caller, err := identityv1.NewIdentityServiceClient(conn).GetCaller(ctx, &identityv1.GetCallerRequest{})
	if err != nil {
		return nil, err
	}
	p := &platform{
		project:   caller.GetProject(),
		data:      datav1.NewDataServiceClient(conn),
		trainer:   trainerv1.NewTrainerServiceClient(conn),
		inference: inferencev1.NewInferenceServiceClient(conn),
		traces:    telemetryv1.NewTraceServiceClient(conn),
		predictor: oip.NewGRPCInferenceServiceClient(conn),
	}
	s := &seen{Language: "go", Subject: caller.GetSubject(), Project: p.project}
	if s.Dataset, err = p.push(ctx, name, folder); err != nil {
		return nil, err
	}
	if s.Refused, err = p.refused(ctx); err != nil {
		return nil, err
	}
	if s.Run, s.Replayed, err = p.submit(ctx, name, s.Dataset); err != nil {
		return nil, err
	}
	if s.States, s.Points, s.ModelVersion, err = p.follow(ctx, s.Run); err != nil {
		return nil, err
	}
	if s.Deployment, err = p.deploy(ctx, name, s.ModelVersion); err != nil {
		return nil, err
	}
	if s.Label, s.TraceID, err = p.predict(ctx, name, folder); err != nil {
		return nil, err
	}
	if s.Spans, err = p.spans(ctx, s.TraceID); err != nil {
		return nil, err
	}
	s.Deadline, s.Cancelled = p.deadline(ctx), p.cancelled(ctx)
	_, err = p.inference.DeleteDeployment(ctx, &inferencev1.DeleteDeploymentRequest{Name: s.Deployment})
	return s, err
}
