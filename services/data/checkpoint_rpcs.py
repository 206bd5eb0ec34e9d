"""Methods of checkpoints."""

from aios.data.v1 import data_service_pb2 as pb
from aios.data.v1 import model_pb2
from aios.names import CheckpointName, JobName, RunName
from aios.records import Tx
from aios.runtime.context import require_job
from services.data import blob_store, checkpoint_store, checkpoints, mapping, models
from services.data.checkpoints import CheckpointExists, check_fence
from services.data.ledger import Draft
from services.data.logs import Change, Log
from services.data.manifests import Kind, Manifest
from services.data.rpcs import Context, Rpcs, run_of


class CheckpointRpcs(Rpcs):
    """Checkpoints of runs."""

    async def CreateCheckpoint(
        self, request: pb.CreateCheckpointRequest, context: Context
    ) -> model_pb2.Checkpoint:
        run, asked = run_of(request.parent, "parent"), request.checkpoint
        checkpoints.check_position(asked.epoch, asked.step, "checkpoint")
        # A run's job has the id of the run.
        require_job(str(JobName(run.project, run.run)), asked.epoch)
        manifest = Manifest.of(Kind.CHECKPOINT, mapping.files_from_proto(asked.files), "checkpoint.files")
        metrics = models.check_metrics(dict(asked.metrics), "checkpoint.metrics")
        content = await self._contents.publish(run.project, manifest)
        name = checkpoints.name_of(run, asked.epoch, asked.step)

        def decide(tx: Tx) -> Draft | model_pb2.Checkpoint:
            check_fence(run, asked.epoch, checkpoint_store.newest_epoch(tx, run))
            known = checkpoint_store.find(tx, run, asked.epoch, asked.step)
            if known is not None:
                if known.manifest_sha256 != manifest.sha256:
                    raise CheckpointExists(f"{name} holds other files.", name=str(name))
                return mapping.checkpoint_to_proto(known)
            body = {"epoch": asked.epoch, "step": asked.step, "metrics": dict(metrics)}
            return Draft(Change.STORED, {**body, "manifest": manifest.sha256}, content)

        return await self._ledger.change(
            Log.of(run), decide, lambda tx: _checkpoint(tx, name), model_pb2.Checkpoint
        )

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: Context
    ) -> pb.ListCheckpointsResponse:
        run = RunName.parse(request.parent, "parent")
        found, token = await self._db.read(lambda tx: checkpoint_store.page(tx, request, run))
        return pb.ListCheckpointsResponse(
            checkpoints=map(mapping.checkpoint_to_proto, found), next_page_token=token
        )

    async def PruneCheckpoints(
        self, request: pb.PruneCheckpointsRequest, context: Context
    ) -> pb.PruneCheckpointsResponse:
        run = run_of(request.parent, "parent")
        rule = checkpoints.check_retention(
            request.keep_last, request.keep_best, request.metric, minimize=request.minimize
        )
        told = pb.PruneCheckpointsResponse()

        def decide(tx: Tx) -> Draft | pb.PruneCheckpointsResponse:
            gone = checkpoints.beyond(rule, checkpoint_store.all_of(tx, run))
            going = [each.manifest_sha256 for each in gone]
            told.CopyFrom(
                pb.PruneCheckpointsResponse(
                    removed=[str(each.name) for each in gone],
                    deletion=self._deletion(blob_store.freed_by(tx, run.project, going)),
                )
            )
            if request.validate_only or not gone:
                return told
            return Draft(Change.PRUNED, {"checkpoints": [each.name.id for each in gone]})

        return await self._ledger.change(Log.of(run), decide, lambda tx: told, pb.PruneCheckpointsResponse)


def _checkpoint(tx: Tx, name: CheckpointName) -> model_pb2.Checkpoint:
    return mapping.checkpoint_to_proto(checkpoint_store.get(tx, name))
