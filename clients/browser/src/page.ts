// Who is asking and what runs there are, kept up to date: by gRPC-web and by JSON, from a page of another origin.
//
// The form asks for an address and a token. A `settings.json` beside the page takes its place; it may ask for the
// `walk`, whose findings are left in #seen for a test to read.

import { Code, ConnectError } from "@connectrpc/connect";
import { IdentityService } from "../gen/aios/identity/v1/identity_service_pb.js";
import { Run_State, type Run } from "../gen/aios/trainer/v1/run_pb.js";
import { TrainerService } from "../gen/aios/trainer/v1/trainer_service_pb.js";
import { Connection, explain, type Refusal } from "./connection.js";

interface Settings {
  address: string;
  token: string;
  walk?: boolean;
}

interface Seen {
  language: "browser";
  subject: string;
  project: string;
  runs: string[];
  refused: Refusal;
  deadline: string;
  cancelled: string;
}

const part = <E extends HTMLElement>(id: string): E => document.getElementById(id) as E;

async function look(connection: Connection): Promise<{ subject: string; project: string; runs: Run[]; revision: bigint }> {
  const caller = await connection.client(IdentityService).getCaller({});
  part("caller").textContent = `${caller.subject} in ${caller.project}`;
  const listed = await connection.client(TrainerService).listRuns({ parent: caller.project });
  listed.runs.toReversed().forEach(show);
  return { subject: caller.subject, project: caller.project, runs: listed.runs, revision: listed.revision };
}

// Every change as it comes; a stream that breaks goes on from the last revision.
async function follow(connection: Connection, project: string, revision: bigint): Promise<never> {
  for (let seen = revision; ; ) {
    try {
      for await (const message of connection.client(TrainerService).watchRuns({ parent: project, startRevision: seen })) {
        for (const event of message.events) if (event.run !== undefined) show(event.run);
        seen = message.revision;
      }
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable) throw error;
    }
  }
}

function show(run: Run): void {
  const id = run.name.split("/").at(-1)!;
  const row = document.getElementById(id) ?? part("runs").insertAdjacentElement("afterbegin", document.createElement("tr"))!;
  row.id = id;
  const changed = run.updateTime === undefined ? "" : new Date(Number(run.updateTime.seconds) * 1000).toLocaleString();
  const values = [id, Run_State[run.state]!.replace("STATE_", ""), String(run.progress?.step ?? 0), changed];
  row.replaceChildren(
    ...values.map((value) => {
      const cell = document.createElement("td");
      cell.textContent = value;
      return cell;
    }),
  );
}

async function walk(connection: Connection): Promise<Seen> {
  const { subject, project } = await look(connection);
  const trainer = connection.client(TrainerService);
  const wrong = { parent: project, run: { spec: { recipe: "no-such-recipe" } }, requestId: crypto.randomUUID() };
  const refused = await trainer.createRun(wrong).then(() => Promise.reject(new Error("It was accepted.")), explain);
  const listed = await connection.json<{ runs?: { name: string }[] }>(`/v1/${project}/runs`);
  const leaving = new AbortController();
  setTimeout(() => leaving.abort(), 100);
  return {
    language: "browser",
    subject,
    project,
    runs: (listed.runs ?? []).map((run) => run.name),
    refused,
    deadline: await ended(trainer.watchRuns({ parent: project }, { timeoutMs: 500 })),
    cancelled: await ended(trainer.watchRuns({ parent: project }, { signal: leaving.signal })),
  };
}

async function ended(stream: AsyncIterable<unknown>): Promise<string> {
  try {
    for await (const _ of stream);
    return "OK";
  } catch (error) {
    return explain(error).code;
  }
}

async function start(settings: Settings): Promise<void> {
  part("problem").textContent = "";
  const connection = new Connection(settings.address, settings.token);
  try {
    if (settings.walk) part("seen").textContent = JSON.stringify(await walk(connection));
    else {
      const { project, revision } = await look(connection);
      await follow(connection, project, revision);
    }
  } catch (error) {
    part("problem").textContent = error instanceof Error ? error.message : String(error);
  }
}

part<HTMLFormElement>("door").addEventListener("submit", (event) => {
  event.preventDefault();
  void start({ address: part<HTMLInputElement>("address").value, token: part<HTMLInputElement>("token").value });
});
const given = await fetch("settings.json").catch(() => undefined);
if (given?.ok) await start((await given.json()) as Settings);
