"""What a training across machines looks like to Kubernetes: one TrainJob, from its own models.

Sources of the fields: ``kubeflow_trainer_api`` 2.3.0, which is generated from Kubeflow Trainer's
``pkg/apis/trainer/v1alpha1/trainjob_types.go`` (the Go type stands beside each use below); the
names of the replicated job and of its container from the runtime ``torch-distributed``
(``manifests/base/runtimes/torch_distributed.yaml``); what the controller adds (PET_NNODES,
PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT, which torchrun reads) from its
``pkg/runtime/framework/plugins/torch/torch.go``; types of pods from Kubernetes' ``core/v1``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from wentu.errors import InputError

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUNTIME = "torch-distributed"
NODE = "node"
"""Name of the replicated job of that runtime, and of the container in its pods."""
CACHE = "/var/cache/wentu"
GRACE = 120
"""Seconds that a pod has to save when it is asked to end."""
UNUSED = ("retries",)
"""Of a profile: what says nothing of a training's pods (the task that launches them has it)."""


@dataclass(frozen=True, kw_only=True)
class Pods:
    """What each machine of a training is, as a profile's ``[stages.finetune]`` says it."""

    image: str
    pull_secret: str = ""
    """Name of a Secret for a private registry; empty: none."""
    cpu: str = ""
    memory: str = ""
    gpu: int = 0
    gpu_type: str = "nvidia.com/gpu"
    shm: str = "8Gi"
    """Size of /dev/shm, where processes of one machine meet; the default of 64 MB is too small."""
    storage: str = ""
    """Of the disk that LMDB and weights are copied to; empty: what the machine has."""
    timeout: int = 0
    """Seconds that the training may take; 0: any."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """{name of a Secret: {key in it: environment variable}}"""
    config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """{name of a ConfigMap: {key in it: environment variable}}"""
    env: Mapping[str, str] = field(default_factory=dict)
    service_account: str = ""
    runtime: str = RUNTIME

    @classmethod
    def parse(cls, text: str) -> Pods:
        """From WENTU_TRAINJOB, a JSON object of these fields; InputError for anything else."""
        try:
            given = json.loads(text)
            known = {each.name for each in fields(cls)}
            unknown = sorted(given.keys() - known - set(UNUSED))
            values = {name: given[name] for name in given if name in known}
            values["tolerations"] = tuple(values.get("tolerations", ()))
            pods = cls(**values)
        except (ValueError, AttributeError, TypeError) as error:
            unknown, pods = [str(error)], cls(image="")
        if unknown or not pods.image:
            raise InputError(
                f"WENTU_TRAINJOB: no description of pods ({', '.join(unknown) or 'no image'}).",
                f"WENTU_TRAINJOB 不是对 Pod 的描述({', '.join(unknown) or '缺少 image'})。",
            )
        return pods


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Which pipeline run a TrainJob belongs to."""

    run: str = ""
    references: tuple[Mapping[str, Any], ...] = ()
    """metadata.ownerReferences of the launching pod: the workflow. What is deleted with it."""


def trainjob(
    name: str, pods: Pods, *, nodes: int, processes: int, place: str, key: str, owner: Owner
) -> dict[str, Any]:
    """The TrainJob that trains ``key`` of the store ``place`` on ``nodes`` machines.

    Args:
        processes: on each machine; 0: one for each GPU, or one.
    """
    from kubeflow_trainer_api import models

    trainer = models.TrainerV1alpha1Trainer(  # Trainer
        image=pods.image,
        command=["torchrun"],
        args=arguments(place, key),
        env=environment(pods, owner),
        numNodes=nodes,
        numProcPerNode=processes or pods.gpu or 1,
        resourcesPerNode=resources(pods),
    )
    job = models.TrainerV1alpha1TrainJob(  # TrainJob
        apiVersion=f"{GROUP}/{VERSION}",
        kind="TrainJob",
        metadata=models.IoK8sApimachineryPkgApisMetaV1ObjectMeta(
            name=name,
            labels=labels(key, owner),
            ownerReferences=references(owner) or None,
        ),
        spec=models.TrainerV1alpha1TrainJobSpec(  # TrainJobSpec
            runtimeRef=models.TrainerV1alpha1RuntimeRef(  # RuntimeRef
                apiGroup=GROUP, kind="ClusterTrainingRuntime", name=pods.runtime
            ),
            trainer=trainer,
            runtimePatches=[patch(pods, labels(key, owner))],
            activeDeadlineSeconds=pods.timeout or None,
            suspend=False,
        ),
    )
    value: dict[str, Any] = job.to_dict()
    return value


def arguments(place: str, key: str) -> list[str]:
    """torchrun's own; who is who it reads from PET_*."""
    return ["-m", "wentu.training.worker", "--store", place, key]


def labels(key: str, owner: Owner) -> dict[str, str]:
    """By which a person, and a network policy, find the TrainJob and its pods."""
    found = {"app.kubernetes.io/name": "wentu", "app.kubernetes.io/component": "training"}
    found["wentu/training"] = key
    return found | ({"wentu/run": owner.run} if owner.run else {})


def references(owner: Owner) -> list[Any]:
    """Deleted with the workflow that the launching pod belongs to, not with that pod."""
    from kubeflow_trainer_api import models

    return [
        models.IoK8sApimachineryPkgApisMetaV1OwnerReference(
            apiVersion=each["apiVersion"],
            kind=each["kind"],
            name=each["name"],
            uid=each["uid"],
            controller=False,
            blockOwnerDeletion=False,
        )
        for each in owner.references
    ]


def environment(pods: Pods, owner: Owner) -> list[Any]:
    """Names out of Secrets and ConfigMaps, and plain values: core/v1 EnvVar, EnvVarSource.

    A key that is not there holds no pod back: KFP's tasks are given theirs in the same way.
    """
    from kubeflow_trainer_api import models

    found = [
        models.IoK8sApiCoreV1EnvVar(
            name=variable,
            valueFrom=models.IoK8sApiCoreV1EnvVarSource(
                secretKeyRef=models.IoK8sApiCoreV1SecretKeySelector(
                    name=secret, key=key, optional=True
                )
            ),
        )
        for secret, keys in sorted(pods.secrets.items())
        for key, variable in sorted(keys.items())
    ]
    found += [
        models.IoK8sApiCoreV1EnvVar(
            name=variable,
            valueFrom=models.IoK8sApiCoreV1EnvVarSource(
                configMapKeyRef=models.IoK8sApiCoreV1ConfigMapKeySelector(
                    name=name, key=key, optional=True
                )
            ),
        )
        for name, keys in sorted(pods.config.items())
        for key, variable in sorted(keys.items())
    ]
    plain = {"WENTU_CACHE": CACHE} | dict(pods.env)
    plain |= {"WENTU_RUN_ID": owner.run} if owner.run else {}
    found += [
        models.IoK8sApiCoreV1EnvVar(name=name, value=value) for name, value in sorted(plain.items())
    ]
    return found


def resources(pods: Pods) -> Any:
    """Requests equal to limits, so that no machine promises what it has not got."""
    from kubeflow_trainer_api import models

    wanted = {"cpu": pods.cpu, "memory": pods.memory, "ephemeral-storage": pods.storage}
    wanted |= {pods.gpu_type: str(pods.gpu)} if pods.gpu else {}
    quantities = {name: quantity(value) for name, value in wanted.items() if value}
    return models.IoK8sApiCoreV1ResourceRequirements(
        limits=quantities or None, requests=quantities or None
    )


def quantity(value: str) -> Any:
    """4, 500m, 16Gi: apimachinery's resource.Quantity."""
    from kubeflow_trainer_api import models

    return models.IoK8sApimachineryPkgApiResourceQuantity(value)


def patch(pods: Pods, labelled: Mapping[str, str]) -> Any:
    """RuntimePatch: what of the runtime's pods is ours. (``runtimePatches`` came with 2.2; before
    it there was ``podTemplateOverrides``.)"""
    from kubeflow_trainer_api import models

    containers = models.TrainerV1alpha1ContainerPatch(  # ContainerPatch
        name=NODE,
        volumeMounts=[
            models.IoK8sApiCoreV1VolumeMount(name="shm", mountPath="/dev/shm"),
            models.IoK8sApiCoreV1VolumeMount(name="cache", mountPath=CACHE),
        ],
        securityContext=models.IoK8sApiCoreV1SecurityContext(
            allowPrivilegeEscalation=False,
            capabilities=models.IoK8sApiCoreV1Capabilities(drop=["ALL"]),
        ),
    )
    memory = models.IoK8sApiCoreV1EmptyDirVolumeSource(
        medium="Memory", sizeLimit=quantity(pods.shm)
    )
    disk = models.IoK8sApiCoreV1EmptyDirVolumeSource(
        sizeLimit=quantity(pods.storage) if pods.storage else None
    )
    spec = models.TrainerV1alpha1PodSpecPatch(  # PodSpecPatch
        containers=[containers],
        imagePullSecrets=[models.IoK8sApiCoreV1LocalObjectReference(name=pods.pull_secret)]
        if pods.pull_secret
        else None,
        nodeSelector=dict(pods.node_selector) or None,
        tolerations=[models.IoK8sApiCoreV1Toleration.from_dict(dict(t)) for t in pods.tolerations]
        or None,
        volumes=[
            models.IoK8sApiCoreV1Volume(name="shm", emptyDir=memory),
            models.IoK8sApiCoreV1Volume(name="cache", emptyDir=disk),
        ],
        securityContext=models.IoK8sApiCoreV1PodSecurityContext(
            runAsNonRoot=True,
            seccompProfile=models.IoK8sApiCoreV1SeccompProfile(type="RuntimeDefault"),
        ),
        serviceAccountName=pods.service_account or None,
        terminationGracePeriodSeconds=GRACE,
    )
    # A service mesh's proxy beside the training would stand between the machines, and outlive it.
    meta = models.IoK8sApimachineryPkgApisMetaV1ObjectMeta(
        labels={**labelled, "sidecar.istio.io/inject": "false"}
    )
    template = models.TrainerV1alpha1PodTemplatePatch(metadata=meta, spec=spec)
    job = models.TrainerV1alpha1JobTemplatePatch(
        spec=models.TrainerV1alpha1JobSpecPatch(template=template)
    )
    replicated = models.TrainerV1alpha1ReplicatedJobPatch(name=NODE, template=job)
    return models.TrainerV1alpha1RuntimePatch(
        manager="wentu.io/launcher",
        trainingRuntimeSpec=models.TrainerV1alpha1TrainingRuntimeSpecPatch(
            template=models.TrainerV1alpha1JobSetTemplatePatch(
                spec=models.TrainerV1alpha1JobSetSpecPatch(replicatedJobs=[replicated])
            )
        ),
    )
