// One address, one token, and what every call has: a deadline, retries where they are safe, errors that can be read.

import { Client, credentials, InterceptingCall, Metadata, status } from "@grpc/grpc-js";
import type { CallOptions, ClientReadableStream, ClientUnaryCall, Interceptor, ServiceError } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo } from "../gen/google/rpc/error_details.js";
import { Status } from "../gen/google/rpc/status.js";

const CALL_SECONDS = 30;

// Every method may be sent again when it was UNAVAILABLE: creations carry a request_id.
const SERVICE_CONFIG = JSON.stringify({
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
});

type ClientClass<C> = new (target: string, channel: ReturnType<typeof credentials.createSsl>, options: object) => C;

export class Connection {
  private readonly target: string;
  private readonly secure: boolean;
  private readonly authorize: Interceptor;
  private readonly clients: Client[] = [];

  constructor(address: string, token: string) {
    const url = new URL(address);
    this.secure = url.protocol === "https:";
    this.target = `${url.hostname}:${url.port || (this.secure ? 443 : 80)}`;
    this.authorize = (options, next) =>
      new InterceptingCall(next(options), {
        start(metadata, listener, forward) {
          metadata.set("authorization", `Bearer ${token}`);
          forward(metadata, listener);
        },
      });
  }

  client<C extends Client>(service: ClientClass<C>): C {
    const channel = this.secure ? credentials.createSsl() : credentials.createInsecure();
    const client = new service(this.target, channel, {
      interceptors: [this.authorize],
      "grpc.service_config": SERVICE_CONFIG,
    });
    this.clients.push(client);
    return client;
  }

  close(): void {
    for (const client of this.clients) client.close();
  }
}

export function deadline(seconds: number): { deadline: Date } {
  return { deadline: new Date(Date.now() + seconds * 1000) };
}

type Method<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  done: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

// A unary call as a promise. `method` is bound to its client: `client.getRun.bind(client)`.
export function call<Request, Response>(
  method: Method<Request, Response>,
  request: Request,
  metadata = new Metadata(),
): Promise<Response> {
  return new Promise((resolve, reject) => {
    method(request, metadata, deadline(CALL_SECONDS), (error, response) => (error ? reject(error) : resolve(response)));
  });
}

// How a stream ended: `OK`, or the name of its code.
export async function end(stream: ClientReadableStream<unknown>): Promise<string> {
  try {
    for await (const _ of stream);
    return "OK";
  } catch (error) {
    return code(error);
  }
}

export function code(error: unknown): string {
  return status[(error as ServiceError).code] ?? "UNKNOWN";
}

export interface Refusal {
  code: string;
  reason: string;
  field: string;
}

// What `google.rpc.Status` says of an error: its stable reason, and the request field that is wrong.
export function explain(error: unknown): Refusal {
  const refusal = { code: code(error), reason: "", field: "" };
  const [details] = (error as ServiceError).metadata.get("grpc-status-details-bin");
  if (details === undefined) return refusal;
  for (const { typeUrl, value } of Status.decode(details as Buffer).details) {
    if (typeUrl.endsWith("/google.rpc.ErrorInfo")) refusal.reason = ErrorInfo.decode(value).reason;
    if (typeUrl.endsWith("/google.rpc.BadRequest")) refusal.field = BadRequest.decode(value).fieldViolations[0]?.field ?? "";
  }
  return refusal;
}
