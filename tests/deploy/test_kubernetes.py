"""The manifests: against Kubernetes' published schemas, and against each other."""

import copy
import os
import pathlib
import re

import helpers_readme
import jsonschema
import kubernetes_validate
import pytest
import yaml

pytestmark = pytest.mark.checkout

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/kubernetes"
VERSIONS = ("1.29", kubernetes_validate.latest_version())

# What the MPI operator adds to Kubernetes, by the names of its v2beta1.
REPLICAS = {
  "type": "object",
  "required": ["replicas", "template"],
  "additionalProperties": False,
  "properties": {
    "replicas": {"type": "integer"},
    "restartPolicy": {"enum": ["Never", "OnFailure", "Always", "ExitCode"]},
    "template": {"type": "object"},
  },
}
MPI_JOB = {
  "type": "object",
  "required": ["mpiReplicaSpecs"],
  "additionalProperties": False,
  "properties": {
    "launcherCreationPolicy": {"enum": ["AtStartup", "WaitForWorkersReady"]},
    "mpiImplementation": {"enum": ["OpenMPI", "Intel", "MPICH"]},
    "slotsPerWorker": {"type": "integer"},
    "sshAuthMountPath": {"type": "string"},
    "runPolicy": {
      "type": "object",
      "additionalProperties": False,
      "properties": {
        "activeDeadlineSeconds": {"type": "integer"},
        "backoffLimit": {"type": "integer"},
        "cleanPodPolicy": {"enum": ["None", "Running", "All"]},
        "ttlSecondsAfterFinished": {"type": "integer"},
      },
    },
    "mpiReplicaSpecs": {
      "type": "object",
      "required": ["Launcher", "Worker"],
      "additionalProperties": False,
      "properties": {"Launcher": REPLICAS, "Worker": REPLICAS},
    },
  },
}


def manifest(name):
  return yaml.safe_load((FOLDER / name).read_text())


def documents(name):
  """Returns what a manifest holds: itself, or the items of a list."""
  document = manifest(name)
  return document["items"] if document["kind"] == "List" else [document]


def templates(document):
  """Returns the pod templates of a manifest by the role of their pod."""
  replicas = document["spec"].get("mpiReplicaSpecs")
  if replicas:
    return {role: spec["template"] for role, spec in replicas.items()}
  return {"Job": document["spec"]["template"]} if "template" in document["spec"] else {}


def containers(name):
  """Returns the containers of a manifest by their names."""
  pods = [pod for part in documents(name) for pod in templates(part).values()]
  return {c["name"]: c for pod in pods for c in pod["spec"]["containers"]}


def check(document, version):
  """Raises what is wrong with a manifest; unknown fields are."""
  if document["kind"] != "MPIJob":
    return kubernetes_validate.validate(document, version, strict=True)
  assert document["apiVersion"] == "kubeflow.org/v2beta1"
  jsonschema.validate(document["spec"], MPI_JOB)
  for template in templates(document).values():
    pod = {
      "apiVersion": "v1",
      "kind": "PodTemplate",
      "metadata": document["metadata"],
      "template": template,
    }
    kubernetes_validate.validate(pod, version, strict=True)
  return version


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [path.name for path in FOLDER.glob("*.yaml")])
def test_manifest_fits_the_published_schemas(name, version):
  for document in documents(name):
    check(document, version)


@pytest.mark.parametrize(
  ("name", "path"),
  [
    ("training.yaml", ("spec", "template", "spec")),
    ("training.yaml", ("spec", "template", "spec", "containers", 0, "resources")),
    ("mpijob.yaml", ("spec", "runPolicy")),
    ("mpijob.yaml", ("spec", "mpiReplicaSpecs", "Worker", "template", "spec")),
  ],
)
def test_a_misspelt_field_is_refused(name, path):
  document = copy.deepcopy(manifest(name))
  part = document
  for key in path:
    part = part[key]
  part["limitz"] = {}

  with pytest.raises(jsonschema.ValidationError, match="limitz"):
    check(document, VERSIONS[-1])


@pytest.mark.parametrize("name", ["training.yaml", "mpijob.yaml", "data_service.yaml"])
def test_containers_share_one_image_and_one_volume(name):
  claim = manifest("volume.yaml")["metadata"]["name"]
  pods = [pod for part in documents(name) for pod in templates(part).values()]
  for template in pods:
    (volume,) = template["spec"]["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": claim}
  found = containers(name)
  readme = (FOLDER / "README.md").read_text()

  (image,) = {container["image"] for container in found.values()}
  assert f"docker push {image}\n" in readme
  for container in found.values():
    if container["name"] != "launcher":  # starts what reads and writes elsewhere
      assert container["volumeMounts"] == [
        {"name": volume["name"], "mountPath": "/data"}
      ]


@pytest.mark.parametrize(
  ("name", "trains"), [("training.yaml", "training"), ("mpijob.yaml", "launcher")]
)
def test_the_evaluator_follows_the_training_and_takes_no_device(name, trains):
  found = containers(name)
  training, evaluator = found[trains], found["evaluator"]

  (folder,) = [a for a in training["command"] if a.startswith("--model_dir=")]
  assert {folder, "--continuous"} <= set(evaluator["command"])
  # Whichever is first, its folder can be made: of a volume only the top exists.
  assert (
    os.path.dirname(folder.split("=")[1]) == evaluator["volumeMounts"][0]["mountPath"]
  )
  assert "--mode=train" in training["command"]
  assert "habana.ai/gaudi" not in evaluator["resources"]["limits"]


def test_ranks_devices_and_hosts_of_the_mpi_job_agree():
  document = manifest("mpijob.yaml")
  spec, name = document["spec"], document["metadata"]["name"]
  machines = spec["mpiReplicaSpecs"]["Worker"]["replicas"]
  found = containers("mpijob.yaml")
  command = found["launcher"]["command"]
  hosts = next(re.findall(r'HOSTS = "(.*)"', a) for a in command if "HOSTS" in a)[0]

  slots = spec["slotsPerWorker"]
  assert found["worker"]["resources"]["limits"]["habana.ai/gaudi"] == slots
  assert command[command.index("-np") + 1] == str(machines * slots)
  # The operator's names: <job>-worker-<index>, in the subdomain <job>.
  expected = [f"{name}-worker-{index}.{name}:{slots}" for index in range(machines)]
  assert hosts.split(",") == expected


def test_workers_and_trainings_find_the_dispatcher_of_the_data_service():
  service, dispatcher, worker = documents("data_service.yaml")
  (port,) = service["spec"]["ports"]
  address = f"{service['metadata']['name']}:{port['port']}"
  found = containers("data_service.yaml")

  assert f"--dispatcher={address}" in found["worker"]["command"]
  assert f"--port={port['targetPort']}" in found["dispatcher"]["command"]
  assert f'"grpc://{address}"' in (FOLDER / "data_service.yaml").read_text()
  labels = dispatcher["spec"]["template"]["metadata"]["labels"]
  assert service["spec"]["selector"] == labels
  for deployment in (dispatcher, worker):
    template = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == template


def test_every_command_of_the_manifests_is_checked_with_those_of_the_documents():
  found = [c for path in FOLDER.glob("*.yaml") for c in helpers_readme.manifest(path)]

  assert [helpers_readme.kind(command) for command in sorted(found)] == [
    *[helpers_readme.ARGUMENTS] * 4,
    *(helpers_readme.TRAIN, helpers_readme.TRAIN),
  ]
