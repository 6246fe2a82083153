"""Serves a SavedModel by TensorFlow Serving's REST interface, with TensorFlow alone.

Run as a program: `python helpers_rest_server.py SAVED_MODEL`. It imports neither this
project nor Model Garden, and would fail if the model did; it prints its port.
Requests are read as https://www.tensorflow.org/tfx/serving/api_rest documents the row
format; what TensorFlow Serving asks of a signature (its method, a type that JSON or
`b64` can fill) is asked here too.
"""

import base64
import http.server
import json
import sys

FORBIDDEN = ("mnv2_hpu", "official", "tf_keras")


class Refusing:
  """Raises where a forbidden package would be imported."""

  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in FORBIDDEN:
      raise AssertionError(f"{name} is imported")


def decode(value):
  """Returns a value of a request with its `b64` objects as bytes."""
  if isinstance(value, dict) and set(value) == {"b64"}:
    return base64.b64decode(value["b64"], validate=True)
  return [decode(item) for item in value] if isinstance(value, list) else value


class Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *_):
    pass

  def do_POST(self):
    assert self.path == "/v1/models/mnv2:predict"
    request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    name = request.get("signature_name", "serving_default")
    definition = self.server.definitions[name]
    assert definition.method_name == "tensorflow/serving/predict"
    ((alias, info),) = definition.inputs.items()
    instances = [
      item[alias] if isinstance(item, dict) and alias in item else item
      for item in request["instances"]
    ]
    tensor = tf.constant(decode(instances), tf.dtypes.as_dtype(info.dtype))
    outputs = self.server.model.signatures[name](**{alias: tensor})
    rows = {name: outputs[name].numpy().tolist() for name in definition.outputs}
    predictions = [
      dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)
    ]
    body = json.dumps({"predictions": predictions}).encode()
    self.send_response(200)
    self.end_headers()
    self.wfile.write(body)


if __name__ == "__main__":
  sys.meta_path.insert(0, Refusing())
  import tensorflow as tf
  from tensorflow.python.saved_model import loader_impl

  server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
  server.model = tf.saved_model.load(sys.argv[1])
  graph = loader_impl.parse_saved_model(sys.argv[1]).meta_graphs[0]
  server.definitions = graph.signature_def
  print(server.server_port, flush=True)
  server.serve_forever()
