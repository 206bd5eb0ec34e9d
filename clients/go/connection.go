package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

const callTimeout = 30 * time.Second

// Every method may be sent again when it was UNAVAILABLE: creations carry a request_id.
// Before grpc-go 1.40 retries are made only where the environment says GRPC_GO_RETRY=on.
const serviceConfig = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 4, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2,
	"retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// bearer puts the token on every call.
type bearer struct {
	token  string
	secure bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }

// dial opens the one channel that every service is reached by.
func dial(address, token string) (*grpc.ClientConn, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	secure := parsed.Scheme == "https"
	transport := grpc.WithInsecure()
	if secure {
		transport = grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}))
	}
	return grpc.Dial(parsed.Host, transport,
		grpc.WithPerRPCCredentials(bearer{token, secure}),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithUnaryInterceptor(withDeadline))
}

// withDeadline gives a call that has no deadline the usual one.
func withDeadline(ctx context.Context, method string, request, reply interface{}, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if _, set := ctx.Deadline(); !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	return invoke(ctx, method, request, reply, conn, options...)
}

// refusal is what an error says for programs.
type refusal struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
	Field  string `json:"field"`
}

// explain reads the google.rpc details of an error: its stable reason, and the request field that is wrong.
func explain(err error) refusal {
	said := refusal{Code: codeOf(err)}
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			said.Reason = detail.GetReason()
		case *errdetails.BadRequest:
			if wrong := detail.GetFieldViolations(); len(wrong) > 0 {
				said.Field = wrong[0].GetField()
			}
		}
	}
	return said
}

var canonical = map[codes.Code]string{
	codes.OK: "OK", codes.Canceled: "CANCELLED", codes.InvalidArgument: "INVALID_ARGUMENT",
	codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.NotFound: "NOT_FOUND", codes.AlreadyExists: "ALREADY_EXISTS",
	codes.Unauthenticated: "UNAUTHENTICATED", codes.Unavailable: "UNAVAILABLE", codes.Internal: "INTERNAL",
}

// codeOf is the name of an error's code as the other languages spell it.
func codeOf(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return canonical[codes.DeadlineExceeded]
	}
	if name, known := canonical[status.Code(err)]; known {
		return name
	}
	return status.Code(err).String()
}

// random is some bytes in hexadecimal.
func random(size int) string {
	bytes := make([]byte, size)
	if _, err := rand.Read(bytes); err != nil {
		panic(err)
	}
	return hex.EncodeToString(bytes)
}

// requestID is a UUID: the same one makes a repeated request safe.
func requestID() string {
	bytes := make([]byte, 16)
	if _, err := rand.Read(bytes); err != nil {
		panic(err)
	}
	bytes[6], bytes[8] = bytes[6]&0x0f|0x40, bytes[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", bytes[:4], bytes[4:6], bytes[6:8], bytes[8:10], bytes[10:])
}
