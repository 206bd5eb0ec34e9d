package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	commonv1 "aios.dev/gen/aios/common/v1"
	datav1 "aios.dev/gen/aios/data/v1"
	inferencev1 "aios.dev/gen/aios/inference/v1"
	telemetryv1 "aios.dev/gen/aios/telemetry/v1"
	trainerv1 "aios.dev/gen/aios/trainer/v1"
	oip "aios.dev/gen/inference"
)

const (
	pixels       = 28 * 28
	poll         = 250 * time.Millisecond
	readyTimeout = 2 * time.Minute
	traceTimeout = 20 * time.Second
)

// push stores every file of a folder as the next version of a dataset.
func (p *platform) push(ctx context.Context, name, folder string) (string, error) {
	var files []*commonv1.File
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		relative, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		file := &commonv1.File{
			Path:      filepath.ToSlash(relative),
			Sha256:    hex.EncodeToString(sum[:]),
			SizeBytes: int64(len(content)),
		}
		files = append(files, file)
		return p.upload(ctx, file, content)
	})
	if err != nil {
		return "", err
	}
	_, err = p.data.CreateDataset(ctx, &datav1.CreateDatasetRequest{
		Parent: p.project, DatasetId: name, RequestId: requestID(),
	})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return "", err
	}
	version, err := p.data.CreateDatasetVersion(ctx, &datav1.CreateDatasetVersionRequest{
		Parent:         p.project + "/datasets/" + name,
		DatasetVersion: &datav1.DatasetVersion{Files: files, Message: "pushed from Go"},
		RequestId:      requestID(),
	})
	return version.GetName(), err
}

// upload sends one file's bytes straight to the object store, unless the project has them.
func (p *platform) upload(ctx context.Context, file *commonv1.File, content []byte) error {
	upload, err := p.data.BeginUpload(ctx, &datav1.BeginUploadRequest{
		Parent: p.project, Sha256: file.Sha256, SizeBytes: file.SizeBytes,
	})
	if err != nil || upload.GetExists() {
		return err
	}
	put, err := http.NewRequestWithContext(ctx, http.MethodPut, upload.GetUrl(), bytes.NewReader(content))
	if err != nil {
		return err
	}
	for key, value := range upload.GetHeaders() {
		put.Header.Set(key, value)
	}
	answer, err := http.DefaultClient.Do(put)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	// 412: somebody else has just put the same content.
	if answer.StatusCode/100 != 2 && answer.StatusCode != http.StatusPreconditionFailed {
		return fmt.Errorf("the object store answered %s to %s", answer.Status, file.Path)
	}
	_, err = p.data.CompleteUpload(ctx, &datav1.CompleteUploadRequest{Name: upload.GetName()})
	return err
}

// refused is what the platform says of a run that cannot be right.
func (p *platform) refused(ctx context.Context) (refusal, error) {
	_, err := p.trainer.CreateRun(ctx, &trainerv1.CreateRunRequest{
		Parent: p.project,
		Run:    &trainerv1.Run{Spec: &trainerv1.RunSpec{Recipe: "no-such-recipe"}},
	})
	if err == nil {
		return refusal{}, errors.New("a run of no recipe was accepted")
	}
	return explain(err), nil
}

// submit sends a run twice with one request_id, as a client does that did not hear the first answer: it is one run.
func (p *platform) submit(ctx context.Context, name, dataset string) (string, bool, error) {
	settings, err := structpb.NewStruct(map[string]interface{}{"epochs": 1, "batch_size": 16})
	if err != nil {
		return "", false, err
	}
	request := &trainerv1.CreateRunRequest{
		Parent:    p.project,
		RequestId: requestID(),
		Run: &trainerv1.Run{Spec: &trainerv1.RunSpec{
			Recipe:          "image_classifier",
			Dataset:         strings.TrimPrefix(dataset, p.project+"/"),
			Model:           name,
			Seed:            7,
			Hyperparameters: settings,
		}},
	}
	first, err := p.trainer.CreateRun(ctx, request)
	if err != nil {
		return "", false, err
	}
	second, err := p.trainer.CreateRun(ctx, request)
	return first.GetName(), first.GetName() == second.GetName(), err
}

// follow reads the run and its points as they arrive, until it has ended.
func (p *platform) follow(ctx context.Context, run string) (states []string, points int, version string, err error) {
	stream, err := p.trainer.WatchMetrics(ctx, &trainerv1.WatchMetricsRequest{Parent: run})
	if err != nil {
		return nil, 0, "", err
	}
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return states, points, version, nil
		}
		if err != nil {
			return nil, 0, "", err
		}
		points += len(message.GetPoints())
		version = message.GetRun().GetModelVersion()
		state := message.GetRun().GetState()
		if len(states) == 0 || states[len(states)-1] != state.String() {
			states = append(states, state.String())
		}
		if state == trainerv1.Run_STATE_FAILED {
			return nil, 0, "", errors.New(message.GetRun().GetStateMessage())
		}
	}
}

// deploy serves a model version and waits until it answers.
func (p *platform) deploy(ctx context.Context, name, version string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	deployment, err := p.inference.CreateDeployment(ctx, &inferencev1.CreateDeploymentRequest{
		Parent:       p.project,
		DeploymentId: name,
		Deployment:   &inferencev1.Deployment{Spec: &inferencev1.DeploymentSpec{ModelVersion: version}},
		RequestId:    requestID(),
	})
	for err == nil && deployment.GetState() != inferencev1.Deployment_STATE_READY {
		if deployment.GetState() == inferencev1.Deployment_STATE_DEGRADED {
			return "", errors.New(deployment.GetStateMessage())
		}
		time.Sleep(poll)
		deployment, err = p.inference.GetDeployment(ctx, &inferencev1.GetDeploymentRequest{Name: deployment.GetName()})
	}
	return deployment.GetName(), err
}

// predict asks for the first test image. Tensors travel as raw little-endian bytes; the trace's id is ours to choose.
func (p *platform) predict(ctx context.Context, name, folder string) (label int, traceID string, err error) {
	image, err := firstImage(filepath.Join(folder, "test", "images.npy"))
	if err != nil {
		return 0, "", err
	}
	traceID = random(16)
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", fmt.Sprintf("00-%s-%s-01", traceID, random(8)))
	answer, err := p.predictor.ModelInfer(ctx, &oip.ModelInferRequest{
		ModelName: name,
		Inputs: []*oip.ModelInferRequest_InferInputTensor{
			{Name: "image", Datatype: "FP32", Shape: []int64{1, 1, 28, 28}},
		},
		RawInputContents: [][]byte{image},
	})
	if err != nil {
		return 0, "", err
	}
	logits := make([]float32, len(answer.GetRawOutputContents()[0])/4)
	if err := binary.Read(bytes.NewReader(answer.GetRawOutputContents()[0]), binary.LittleEndian, logits); err != nil {
		return 0, "", err
	}
	for index, logit := range logits {
		if logit > logits[label] {
			label = index
		}
	}
	return label, traceID, nil
}

// firstImage is the first image of a NumPy file, as the model takes it: FP32, 0 to 1.
func firstImage(path string) ([]byte, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	start := 10 + int(binary.LittleEndian.Uint16(file[8:]))
	image := make([]byte, 4*pixels)
	for index, value := range file[start : start+pixels] {
		binary.LittleEndian.PutUint32(image[4*index:], math.Float32bits(float32(value)/255))
	}
	return image, nil
}

// spans counts those of a trace. They arrive a moment after the answer: the model's own is waited for.
func (p *platform) spans(ctx context.Context, traceID string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, traceTimeout)
	defer cancel()
	for {
		trace, err := p.traces.GetTrace(ctx, &telemetryv1.GetTraceRequest{Name: p.project + "/traces/" + traceID})
		if err != nil && status.Code(err) != codes.NotFound {
			return 0, err
		}
		for _, span := range trace.GetSpans() {
			if span.GetService() == "triton" {
				return len(trace.GetSpans()), nil
			}
		}
		time.Sleep(poll)
	}
}

// deadline is how a watch ends that may take half a second.
func (p *platform) deadline(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	return p.watchRuns(ctx)
}

// cancelled is how a watch ends that nobody wants any more.
func (p *platform) cancelled(ctx context.Context) string {
	ctx, cancel := context.WithCancel(ctx)
	time.AfterFunc(100*time.Millisecond, cancel)
	return p.watchRuns(ctx)
}

func (p *platform) watchRuns(ctx context.Context) string {
	stream, err := p.trainer.WatchRuns(ctx, &trainerv1.WatchRunsRequest{Parent: p.project})
	for err == nil {
		_, err = stream.Recv()
	}
	return codeOf(err)
}
