// One address, one token: gRPC-web for calls and streams, fetch for JSON.

import { Code, ConnectError, createClient, type Client, type Interceptor, type Transport } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import type { DescService } from "@bufbuild/protobuf";
import { BadRequestSchema, ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.js";

const CALL_MILLIS = 30_000;
const TRIES = 4;

export class Connection {
  private readonly transport: Transport;

  constructor(
    private readonly address: string,
    private readonly token: string,
  ) {
    const authorize: Interceptor = (next) => (request) => {
      request.header.set("authorization", `Bearer ${token}`);
      return next(request);
    };
    this.transport = createGrpcWebTransport({ baseUrl: address, interceptors: [again, authorize] });
  }

  client<S extends DescService>(service: S): Client<S> {
    return createClient(service, this.transport);
  }

  // The JSON form of the same API, as `GET /v1/openapi.json` describes it.
  async json<T>(path: string): Promise<T> {
    const answer = await fetch(new URL(path, this.address), {
      headers: { authorization: `Bearer ${this.token}` },
      signal: AbortSignal.timeout(CALL_MILLIS),
    });
    const body = await answer.json();
    if (!answer.ok) throw new Error(`${body.reason}: ${body.detail}`);
    return body as T;
  }
}

// A browser has no service config. What was UNAVAILABLE may be sent again: creations carry a request_id.
const again: Interceptor = (next) => async (request) => {
  for (let tried = 1; ; tried++) {
    try {
      return await next(request);
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable || tried === TRIES) throw error;
      await new Promise((done) => setTimeout(done, 200 * 2 ** tried * Math.random()));
    }
  }
};

export interface Refusal {
  code: string;
  reason: string;
  field: string;
}

// What an error says for programs: its stable reason, and the request field that is wrong.
export function explain(error: unknown): Refusal {
  const said = ConnectError.from(error);
  const [info] = said.findDetails(ErrorInfoSchema);
  const [wrong] = said.findDetails(BadRequestSchema);
  return { code: nameOf(said.code), reason: info?.reason ?? "", field: wrong?.fieldViolations[0]?.field ?? "" };
}

// The name of a code as gRPC spells it.
function nameOf(code: Code): string {
  return code === Code.Canceled ? "CANCELLED" : Code[code].replace(/(?<!^)([A-Z])/g, "_$1").toUpperCase();
}
