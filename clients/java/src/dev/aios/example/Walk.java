package dev.aios.example;

import com.google.protobuf.ByteString;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import dev.aios.common.v1.File;
import dev.aios.data.v1.BeginUploadRequest;
import dev.aios.data.v1.CompleteUploadRequest;
import dev.aios.data.v1.CreateDatasetRequest;
import dev.aios.data.v1.CreateDatasetVersionRequest;
import dev.aios.data.v1.DataServiceGrpc;
import dev.aios.data.v1.DatasetVersion;
import dev.aios.data.v1.Upload;
import dev.aios.identity.v1.GetCallerRequest;
import dev.aios.identity.v1.IdentityServiceGrpc;
import dev.aios.inference.v1.CreateDeploymentRequest;
import dev.aios.inference.v1.DeleteDeploymentRequest;
import dev.aios.inference.v1.Deployment;
import dev.aios.inference.v1.DeploymentSpec;
import dev.aios.inference.v1.GetDeploymentRequest;
import dev.aios.inference.v1.InferenceServiceGrpc;
import dev.aios.telemetry.v1.GetTraceRequest;
import dev.aios.telemetry.v1.TraceServiceGrpc;
import dev.aios.trainer.v1.CreateRunRequest;
import dev.aios.trainer.v1.Run;
import dev.aios.trainer.v1.RunSpec;
import dev.aios.trainer.v1.TrainerServiceGrpc;
import dev.aios.trainer.v1.WatchMetricsRequest;
import dev.aios.trainer.v1.WatchMetricsResponse;
import dev.aios.trainer.v1.WatchRunsRequest;
import inference.GRPCInferenceServiceGrpc;
import inference.GrpcService.ModelInferRequest;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.Context.CancellableContext;
import io.grpc.Metadata;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** What the program does, one method a step. */
final class Walk {
  private static final int PIXELS = 28 * 28;
  private static final long POLL_MILLIS = 250;
  private static final long READY_SECONDS = 120;
  private static final long TRACE_SECONDS = 20;

  private final DataServiceGrpc.DataServiceBlockingStub data;
  private final TrainerServiceGrpc.TrainerServiceBlockingStub trainer;
  private final InferenceServiceGrpc.InferenceServiceBlockingStub inference;
  private final TraceServiceGrpc.TraceServiceBlockingStub traces;
  private final GRPCInferenceServiceGrpc.GRPCInferenceServiceBlockingStub predictor;
  private final IdentityServiceGrpc.IdentityServiceBlockingStub identity;
  private final HttpClient http = HttpClient.newHttpClient();
  private String project;

  Walk(Connection connection) {
    Channel channel = connection.channel();
    data = DataServiceGrpc.newBlockingStub(channel);
    trainer = TrainerServiceGrpc.newBlockingStub(channel);
    inference = InferenceServiceGrpc.newBlockingStub(channel);
    traces = TraceServiceGrpc.newBlockingStub(channel);
    predictor = GRPCInferenceServiceGrpc.newBlockingStub(channel);
    identity = IdentityServiceGrpc.newBlockingStub(channel);
  }

  Map<String, Object> walk(Path folder, String name) throws Exception {
    Map<String, Object> seen = new LinkedHashMap<>();
    var caller = identity.getCaller(GetCallerRequest.getDefaultInstance());
    project = caller.getProject();
    seen.put("language", "java");
    seen.put("subject", caller.getSubject());
    seen.put("project", project);
    String dataset = push(name, folder);
    seen.put("dataset", dataset);
    seen.put("refused", refused());
    String run = submit(name, dataset, seen);
    follow(run, seen);
    String deployment = deploy(name, (String) seen.get("modelVersion"));
    seen.put("deployment", deployment);
    predict(name, folder, seen);
    seen.put("spans", spans((String) seen.get("traceId")));
    seen.put("deadline", ended(trainer.withDeadlineAfter(500, TimeUnit.MILLISECONDS)));
    seen.put("cancelled", cancelled());
    inference.deleteDeployment(DeleteDeploymentRequest.newBuilder().setName(deployment).build());
    return seen;
  }

  /** Stores every file of a folder as the next version of a dataset. */
  private String push(String name, Path folder) throws Exception {
    List<File> files = new ArrayList<>();
    try (Stream<Path> found = Files.walk(folder)) {
      for (Path path : found.filter(Files::isRegularFile).toList()) {
        byte[] content = Files.readAllBytes(path);
        File file =
            File.newBuilder()
                .setPath(folder.relativize(path).toString().replace('\\', '/'))
                .setSha256(sha256(content))
                .setSizeBytes(content.length)
                .build();
        upload(file, content);
        files.add(file);
      }
    }
    try {
      data.createDataset(
          CreateDatasetRequest.newBuilder().setParent(project).setDatasetId(name).setRequestId(uuid()).build());
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != Code.ALREADY_EXISTS) {
        throw error;
      }
    }
    return data.createDatasetVersion(
            CreateDatasetVersionRequest.newBuilder()
                .setParent(project + "/datasets/" + name)
                .setDatasetVersion(DatasetVersion.newBuilder().addAllFiles(files).setMessage("pushed from Java"))
                .setRequestId(uuid())
                .build())
        .getName();
  }

  /** Sends one file's bytes straight to the object store, unless the project has them. */
  private void upload(File file, byte[] content) throws IOException, InterruptedException {
    Upload upload =
        data.beginUpload(
            BeginUploadRequest.newBuilder()
                .setParent(project)
                .setSha256(file.getSha256())
                .setSizeBytes(file.getSizeBytes())
                .build());
    if (upload.getExists()) {
      return;
    }
    HttpRequest.Builder put =
        HttpRequest.newBuilder(URI.create(upload.getUrl())).PUT(BodyPublishers.ofByteArray(content));
    upload.getHeadersMap().forEach((key, value) -> {
      // The HTTP client says by itself how long the body is, and lets nobody else say it.
      if (!key.equalsIgnoreCase("content-length")) {
        put.header(key, value);
      }
    });
    HttpResponse<String> answer = http.send(put.build(), BodyHandlers.ofString());
    // 412: somebody else has just put the same content.
    if (answer.statusCode() / 100 != 2 && answer.statusCode() != 412) {
      throw new IOException("The object store answered " + answer.statusCode() + " to " + file.getPath());
    }
    data.completeUpload(CompleteUploadRequest.newBuilder().setName(upload.getName()).build());
  }

  /** What the platform says of a run that cannot be right. */
  private Connection.Refusal refused() throws Exception {
    try {
      trainer.createRun(creation(RunSpec.newBuilder().setRecipe("no-such-recipe")));
    } catch (StatusRuntimeException error) {
      return Connection.Refusal.of(error);
    }
    throw new IllegalStateException("A run of no recipe was accepted.");
  }

  /** Sends a run twice with one request_id, as a client does that did not hear the first answer: it is one run. */
  private String submit(String name, String dataset, Map<String, Object> seen) {
    Struct settings =
        Struct.newBuilder().putFields("epochs", number(1)).putFields("batch_size", number(16)).build();
    CreateRunRequest request =
        creation(
            RunSpec.newBuilder()
                .setRecipe("image_classifier")
                .setDataset(dataset.substring(project.length() + 1))
                .setModel(name)
                .setSeed(7)
                .setHyperparameters(settings));
    Run first = trainer.createRun(request);
    Run second = trainer.createRun(request);
    seen.put("run", first.getName());
    seen.put("replayed", first.getName().equals(second.getName()));
    return first.getName();
  }

  private CreateRunRequest creation(RunSpec.Builder spec) {
    return CreateRunRequest.newBuilder()
        .setParent(project)
        .setRequestId(uuid())
        .setRun(Run.newBuilder().setSpec(spec))
        .build();
  }

  /** Reads the run and its points as they arrive, until it has ended. */
  private void follow(String run, Map<String, Object> seen) {
    List<String> states = new ArrayList<>();
    int points = 0;
    var messages = trainer.watchMetrics(WatchMetricsRequest.newBuilder().setParent(run).build());
    while (messages.hasNext()) {
      WatchMetricsResponse message = messages.next();
      String state = message.getRun().getState().name();
      points += message.getPointsCount();
      if (states.isEmpty() || !states.get(states.size() - 1).equals(state)) {
        states.add(state);
      }
      if (message.getRun().getState() == Run.State.STATE_FAILED) {
        throw new IllegalStateException(message.getRun().getStateMessage());
      }
      seen.put("modelVersion", message.getRun().getModelVersion());
    }
    seen.put("states", states);
    seen.put("points", points);
  }

  /** Serves a model version and waits until it answers. */
  private String deploy(String name, String version) throws Exception {
    Deployment made =
        inference.createDeployment(
            CreateDeploymentRequest.newBuilder()
                .setParent(project)
                .setDeploymentId(name)
                .setDeployment(
                    Deployment.newBuilder().setSpec(DeploymentSpec.newBuilder().setModelVersion(version)))
                .setRequestId(uuid())
                .build());
    GetDeploymentRequest get = GetDeploymentRequest.newBuilder().setName(made.getName()).build();
    return eventually(READY_SECONDS, made.getName(), () -> {
      Deployment now = inference.getDeployment(get);
      if (now.getState() == Deployment.State.STATE_DEGRADED) {
        throw new IllegalStateException(now.getStateMessage());
      }
      return now.getState() == Deployment.State.STATE_READY ? Optional.of(now.getName()) : Optional.empty();
    });
  }

  /** Asks for the first test image. Tensors travel as raw little-endian bytes; the trace's id is ours to choose. */
  private void predict(String name, Path folder, Map<String, Object> seen) throws IOException {
    String traceId = random(16);
    Metadata headers = new Metadata();
    headers.put(Connection.header("traceparent"), "00-" + traceId + "-" + random(8) + "-01");
    ModelInferRequest request =
        ModelInferRequest.newBuilder()
            .setModelName(name)
            .addInputs(
                ModelInferRequest.InferInputTensor.newBuilder()
                    .setName("image")
                    .setDatatype("FP32")
                    .addAllShape(List.of(1L, 1L, 28L, 28L)))
            .addRawInputContents(firstImage(folder.resolve("test").resolve("images.npy")))
            .build();
    var answer =
        predictor.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers)).modelInfer(request);
    var logits =
        answer.getRawOutputContents(0).asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
    int label = 0;
    for (int index = 1; index < logits.limit(); index++) {
      label = logits.get(index) > logits.get(label) ? index : label;
    }
    seen.put("label", label);
    seen.put("traceId", traceId);
  }

  /** The first image of a NumPy file, as the model takes it: FP32, 0 to 1. */
  private static ByteString firstImage(Path path) throws IOException {
    ByteBuffer file = ByteBuffer.wrap(Files.readAllBytes(path)).order(ByteOrder.LITTLE_ENDIAN);
    int start = 10 + Short.toUnsignedInt(file.getShort(8));
    ByteBuffer image = ByteBuffer.allocate(4 * PIXELS).order(ByteOrder.LITTLE_ENDIAN);
    for (int index = 0; index < PIXELS; index++) {
      image.putFloat(Byte.toUnsignedInt(file.get(start + index)) / 255f);
    }
    return ByteString.copyFrom(image.flip());
  }

  /** Spans arrive a moment after the answer: how many there are once the model's own is. */
  private int spans(String traceId) throws Exception {
    GetTraceRequest get = GetTraceRequest.newBuilder().setName(project + "/traces/" + traceId).build();
    return eventually(TRACE_SECONDS, get.getName(), () -> {
      try {
        var spans = traces.getTrace(get).getSpansList();
        boolean whole = spans.stream().anyMatch(span -> span.getService().equals("triton"));
        return whole ? Optional.of(spans.size()) : Optional.empty();
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Code.NOT_FOUND) {
          throw error;
        }
        return Optional.empty();
      }
    });
  }

  /** How a watch ends that nobody wants any more. */
  private String cancelled() throws Exception {
    CancellableContext context = Context.current().withCancellation();
    Thread canceller = new Thread(() -> {
      pause(100);
      context.cancel(null);
    });
    canceller.start();
    return context.call(() -> ended(trainer));
  }

  private String ended(TrainerServiceGrpc.TrainerServiceBlockingStub stub) {
    try {
      stub.watchRuns(WatchRunsRequest.newBuilder().setParent(project).build()).forEachRemaining(message -> {});
      return "OK";
    } catch (StatusRuntimeException error) {
      return error.getStatus().getCode().name();
    }
  }

  /** The first answer that is there. */
  private static <T> T eventually(long seconds, String what, Callable<Optional<T>> look) throws Exception {
    long giveUp = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
    while (true) {
      Optional<T> found = look.call();
      if (found.isPresent()) {
        return found.get();
      }
      if (System.nanoTime() > giveUp) {
        throw new IllegalStateException(what + " is not there after " + seconds + " s.");
      }
      pause(POLL_MILLIS);
    }
  }

  private static void pause(long millis) {
    try {
      Thread.sleep(millis);
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
    }
  }

  private static Value number(double value) {
    return Value.newBuilder().setNumberValue(value).build();
  }

  private static String sha256(byte[] content) throws NoSuchAlgorithmException {
    return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
  }

  private static String uuid() {
    return UUID.randomUUID().toString();
  }

  private static String random(int size) {
    byte[] bytes = new byte[size];
    new SecureRandom().nextBytes(bytes);
    return HexFormat.of().formatHex(bytes);
  }
}
