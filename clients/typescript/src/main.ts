// The whole path: data, training, serving, a prediction and its trace.
//
//     AIOS_ADDRESS=http://127.0.0.1:8080 AIOS_TOKEN=... npm start -- FOLDER NAME

import { createHash, randomBytes, randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Metadata, status } from "@grpc/grpc-js";
import type { ServiceError } from "@grpc/grpc-js";

import { File } from "../gen/aios/common/v1/file.js";
import {
  BeginUploadRequest,
  CreateDatasetRequest,
  CreateDatasetVersionRequest,
  DataServiceClient,
} from "../gen/aios/data/v1/data_service.js";
import { IdentityServiceClient } from "../gen/aios/identity/v1/identity_service.js";
import { Deployment_State } from "../gen/aios/inference/v1/deployment.js";
import { CreateDeploymentRequest, InferenceServiceClient } from "../gen/aios/inference/v1/inference_service.js";
import { TraceServiceClient } from "../gen/aios/telemetry/v1/trace_service.js";
import { Run_State } from "../gen/aios/trainer/v1/run.js";
import { CreateRunRequest, TrainerServiceClient, WatchRunsRequest } from "../gen/aios/trainer/v1/trainer_service.js";
import { GRPCInferenceServiceClient, ModelInferRequest } from "../gen/grpc_service.js";
import { call, code, Connection, deadline, end, explain, type Refusal } from "./connection.js";

const PIXELS = 28 * 28;
const READY_SECONDS = 120;
const TRACE_SECONDS = 20;
const POLL_MILLIS = 250;

const connection = new Connection(process.env.AIOS_ADDRESS ?? "http://127.0.0.1:8080", process.env.AIOS_TOKEN ?? "");
const identity = connection.client(IdentityServiceClient);
const data = connection.client(DataServiceClient);
const trainer = connection.client(TrainerServiceClient);
const inference = connection.client(InferenceServiceClient);
const traces = connection.client(TraceServiceClient);
const predictor = connection.client(GRPCInferenceServiceClient);

async function main(folder: string, name: string): Promise<object> {
  const caller = await call(identity.getCaller.bind(identity), {});
  const project = caller.project;
  const dataset = await push(project, name, folder);

  const refused = await refusal(project);
  const { run, replayed } = await submit(project, name, dataset);
  const followed = await follow(run);

  const deployment = await deploy(project, name, followed.modelVersion);
  const { label, traceId } = await predict(name, firstImage(folder));
  const seen = {
    language: "typescript",
    subject: caller.subject,
    project,
    dataset,
    refused,
    run,
    replayed,
    ...followed,
    deployment,
    label,
    traceId,
    spans: await spans(`${project}/traces/${traceId}`),
    deadline: await end(trainer.watchRuns(watch(project), deadline(0.5))),
    cancelled: await cancelled(project),
  };
  await call(inference.deleteDeployment.bind(inference), { name: deployment });
  return seen;
}

// Stores every file of a folder as the next version of a dataset. Bytes go straight to the object store.
async function push(project: string, name: string, folder: string): Promise<string> {
  const files: File[] = [];
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const content = readFileSync(path);
    const sha256 = createHash("sha256").update(content).digest("hex");
    const upload = await call(
      data.beginUpload.bind(data),
      BeginUploadRequest.fromPartial({ parent: project, sha256, sizeBytes: content.length }),
    );
    if (!upload.exists) {
      const put = await fetch(upload.url, { method: "PUT", headers: upload.headers, body: content });
      // 412: somebody else has just put the same content.
      await put.arrayBuffer();
      if (!put.ok && put.status !== 412) throw new Error(`The object store answered ${put.status} to ${entry.name}.`);
      await call(data.completeUpload.bind(data), { name: upload.name });
    }
    files.push(File.fromPartial({ path: path.slice(folder.length + 1), sha256, sizeBytes: content.length }));
  }
  const create = CreateDatasetRequest.fromPartial({ parent: project, datasetId: name, requestId: randomUUID() });
  await call(data.createDataset.bind(data), create).catch((error: ServiceError) => {
    if (error.code !== status.ALREADY_EXISTS) throw error;
  });
  const version = CreateDatasetVersionRequest.fromPartial({
    parent: `${project}/datasets/${name}`,
    datasetVersion: { files, message: "pushed from TypeScript" },
    requestId: randomUUID(),
  });
  return (await call(data.createDatasetVersion.bind(data), version)).name;
}

// What the platform says of a run that cannot be right.
async function refusal(project: string): Promise<Refusal> {
  const wrong = CreateRunRequest.fromPartial({ parent: project, run: { spec: { recipe: "no-such-recipe" } } });
  return call(trainer.createRun.bind(trainer), wrong).then(() => {
    throw new Error("A run of no recipe was accepted.");
  }, explain);
}

// Submits a run twice with one request_id, as a client does that did not hear the first answer: it is one run.
async function submit(project: string, name: string, dataset: string): Promise<{ run: string; replayed: boolean }> {
  const request = CreateRunRequest.fromPartial({
    parent: project,
    requestId: randomUUID(),
    run: {
      spec: {
        recipe: "image_classifier",
        dataset: dataset.slice(project.length + 1),
        model: name,
        seed: 7,
        hyperparameters: { epochs: 1, batch_size: 16 },
      },
    },
  });
  const first = await call(trainer.createRun.bind(trainer), request);
  const second = await call(trainer.createRun.bind(trainer), request);
  return { run: first.name, replayed: first.name === second.name };
}

async function follow(run: string): Promise<{ states: string[]; points: number; modelVersion: string }> {
  const states: string[] = [];
  let points = 0;
  let modelVersion = "";
  for await (const message of trainer.watchMetrics({ parent: run })) {
    points += message.points.length;
    modelVersion = message.run.modelVersion;
    if (states.at(-1) !== message.run.state) states.push(message.run.state);
    if (message.run.state === Run_State.STATE_FAILED) throw new Error(message.run.stateMessage);
  }
  return { states, points, modelVersion };
}

async function deploy(project: string, name: string, modelVersion: string): Promise<string> {
  const request = CreateDeploymentRequest.fromPartial({
    parent: project,
    deploymentId: name,
    deployment: { spec: { modelVersion } },
    requestId: randomUUID(),
  });
  let deployment = await call(inference.createDeployment.bind(inference), request);
  for (const until = Date.now() + READY_SECONDS * 1000; deployment.state !== Deployment_State.STATE_READY; ) {
    if (Date.now() > until || deployment.state === Deployment_State.STATE_DEGRADED) {
      throw new Error(`${deployment.name} does not answer: ${deployment.stateMessage}`);
    }
    await sleep(POLL_MILLIS);
    deployment = await call(inference.getDeployment.bind(inference), { name: deployment.name });
  }
  return deployment.name;
}

// Tensors travel as raw little-endian bytes. The trace's id is ours to choose.
async function predict(name: string, image: Float32Array): Promise<{ label: number; traceId: string }> {
  const traceId = randomBytes(16).toString("hex");
  const metadata = new Metadata();
  metadata.set("traceparent", `00-${traceId}-${randomBytes(8).toString("hex")}-01`);
  const request = ModelInferRequest.fromPartial({
    modelName: name,
    inputs: [{ name: "image", datatype: "FP32", shape: [1, 1, 28, 28] }],
    rawInputContents: [Buffer.from(image.buffer)],
  });
  const response = await call(predictor.modelInfer.bind(predictor), request, metadata);
  const raw = response.rawOutputContents[0]!;
  const logits = Array.from({ length: raw.length / 4 }, (_, index) => raw.readFloatLE(index * 4));
  return { label: logits.indexOf(Math.max(...logits)), traceId };
}

// The first image of a NumPy file, as the model takes it: 0 to 1.
function firstImage(folder: string): Float32Array {
  const file = readFileSync(join(folder, "test", "images.npy"));
  const start = 10 + file.readUInt16LE(8);
  return Float32Array.from(file.subarray(start, start + PIXELS), (value) => value / 255);
}

// Spans arrive a moment after the answer: how many there are once the model's own is.
async function spans(name: string): Promise<number> {
  for (const until = Date.now() + TRACE_SECONDS * 1000; Date.now() < until; await sleep(POLL_MILLIS)) {
    try {
      const trace = await call(traces.getTrace.bind(traces), { name });
      if (trace.spans.some((span) => span.service === "triton")) return trace.spans.length;
    } catch (error) {
      if (code(error) !== "NOT_FOUND") throw error;
    }
  }
  throw new Error(`${name} shows no span of the model.`);
}

async function cancelled(project: string): Promise<string> {
  const stream = trainer.watchRuns(watch(project));
  const ended = end(stream);
  stream.cancel();
  return ended;
}

function watch(project: string): WatchRunsRequest {
  return { parent: project, startRevision: 0 };
}

const [folder, name] = process.argv.slice(2);
if (folder === undefined || name === undefined) {
  console.error("usage: npm start -- FOLDER NAME");
  process.exit(2);
}
try {
  console.log(JSON.stringify(await main(folder, name)));
} catch (error) {
  console.error(error);
  process.exitCode = 1;
}
connection.close();
process.exit();
