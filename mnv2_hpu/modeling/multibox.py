"""What SSD makes of anchors: targets, losses with hard negatives, detections.

Source: `target_assigner.py`, `argmax_matcher.py`, `losses.py` (`HardExampleMiner`) and
`post_processing.py` of the TF1 Object Detection API, as
`ssdlite_mobilenet_v2_coco.config` sets them; SSD is arXiv 1512.02325. All of it works
on whole batches with static shapes.
"""

import dataclasses

import tensorflow as tf
from official.vision.ops import box_ops, iou_similarity

MATCH_THRESHOLD = 0.5  # IoU from which an anchor is positive
BOX_CODER_WEIGHTS = [10.0, 10.0, 5.0, 5.0]  # factors of ty, tx, th, tw
UNMATCHED = -1

NEGATIVES_PER_POSITIVE = 3
MIN_NEGATIVES = 3  # per image
MINER_IOU_THRESHOLD = 0.99  # above it, the prediction of less loss is dropped
MAX_MINED = 3000  # predictions per image that the miner keeps

SCORE_THRESHOLD = 1e-8
NMS_IOU_THRESHOLD = 0.6
MAX_DETECTIONS = 100  # per class, and per image


@dataclasses.dataclass(frozen=True)
class Targets:
  """What the anchors of an image, or of each image of a batch, are to predict.

  Attributes:
    match: Row of the anchor's box, or `UNMATCHED`; int32 `[..., anchors]`.
    box_targets: Encoded box, zero where unmatched; float32 `[..., anchors, 4]`.
    class_targets: One-hot class, column 0 where unmatched; float32
      `[..., anchors, num_classes + 1]`.
    box_weights: 1 where matched, else 0; float32 `[..., anchors]`.
  """

  match: tf.Tensor
  box_targets: tf.Tensor
  class_targets: tf.Tensor
  box_weights: tf.Tensor


def assign_targets(
  anchors: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor, num_classes: int
) -> Targets:
  """Matches anchors to boxes: by an IoU of at least 0.5, and each box's best anchor.

  Args:
    anchors: ymin, xmin, ymax, xmax as fractions of the image, `[anchors, 4]`.
    boxes: Likewise, of the objects; float32 `[..., n, 4]`.
    classes: Their classes from 0 on, `[..., n]`; rows of a negative one are padding.
    num_classes: Number of classes, without the background.
  """
  anchors = tf.convert_to_tensor(anchors, tf.float32)
  classes = tf.cast(classes, tf.int32)
  # A row of padding, since an image may have no box.
  ahead = [[0, 0]] * (len(classes.shape) - 1)
  classes = tf.pad(classes, [*ahead, [0, 1]], constant_values=-1)
  boxes = tf.pad(tf.cast(boxes, tf.float32), [*ahead, [0, 1], [0, 0]])
  match = _match(anchors, boxes, classes >= 0)
  is_matched = match >= 0
  row = tf.maximum(match, 0)
  batch_dims = len(ahead)
  matched_boxes = tf.gather(boxes, row, axis=-2, batch_dims=batch_dims)
  matched_classes = tf.gather(classes, row, axis=-1, batch_dims=batch_dims)
  encoded = box_ops.encode_boxes(matched_boxes, anchors, BOX_CODER_WEIGHTS)
  columns = tf.where(is_matched, matched_classes + 1, 0)
  return Targets(
    match=match,
    box_targets=tf.where(is_matched[..., None], encoded, 0.0),
    class_targets=tf.one_hot(columns, num_classes + 1),
    box_weights=tf.cast(is_matched, tf.float32),
  )


def _match(anchors: tf.Tensor, boxes: tf.Tensor, is_box: tf.Tensor) -> tf.Tensor:
  """Returns the row of the box of each anchor, int32 `[..., anchors]`."""
  # Model Garden's matcher would give the padding its best anchor, too.
  iou = tf.where(is_box[..., None], _iou(boxes, anchors), -1.0)
  best_box = tf.argmax(iou, axis=-2, output_type=tf.int32)
  match = tf.where(tf.reduce_max(iou, axis=-2) >= MATCH_THRESHOLD, best_box, UNMATCHED)
  best_anchor = tf.argmax(iou, axis=-1)
  claims = tf.one_hot(best_anchor, anchors.shape[0], on_value=True, off_value=False)
  claims = tf.cast(claims & is_box[..., None], tf.int8)
  # Of several boxes that claim an anchor the first has it; the others have none.
  first_claim = tf.argmax(claims, axis=-2, output_type=tf.int32)
  return tf.where(tf.reduce_max(claims, axis=-2) > 0, first_claim, match)


def _iou(boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
  """Returns the IoU of boxes `[..., n, 4]` with anchors, `[..., n, anchors]`."""
  flat = iou_similarity.iou(tf.reshape(boxes, [-1, 4]), anchors)
  return tf.reshape(flat, [*tf.unstack(tf.shape(boxes)[:-1]), anchors.shape[0]])


def decode_boxes(encodings: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
  """Returns the boxes of encodings, `[..., anchors, 4]`; sizes have no upper limit.

  Args:
    encodings: ty, tx, th, tw, `[..., anchors, 4]`.
    anchors: `[anchors, 4]`.
  """
  encodings = tf.convert_to_tensor(encodings)
  anchors = tf.cast(anchors, encodings.dtype)
  center = (anchors[:, :2] + anchors[:, 2:]) / 2
  size = anchors[:, 2:] - anchors[:, :2]
  shift, log_ratio = tf.split(encodings / BOX_CODER_WEIGHTS, 2, axis=-1)
  center += shift * size
  half = tf.exp(log_ratio) * size / 2
  return tf.concat([center - half, center + half], axis=-1)


def multibox_loss(
  box_encodings: tf.Tensor,
  class_logits: tf.Tensor,
  targets: Targets,
  anchors: tf.Tensor,
  num_matched: tf.Tensor | None = None,
  image_weights: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the localization and the classification loss of a batch, scalars.

  Both are sums over the positives and the hardest negatives of each image, divided by
  the number of positives before mining, at least 1.

  Args:
    box_encodings: float32 `[batch, anchors, 4]`.
    class_logits: float32 `[batch, anchors, num_classes + 1]`.
    targets: Of every image, `[batch, …]`.
    anchors: `[anchors, 4]`.
    num_matched: Divisor, if it is that of more images than these.
    image_weights: `[batch]`; an image of weight 0 counts nowhere. None weighs all by 1.
  """
  localization = tf.reduce_sum(_huber(box_encodings - targets.box_targets), axis=-1) * (
    targets.box_weights
  )
  classification = tf.reduce_sum(
    tf.nn.sigmoid_cross_entropy_with_logits(targets.class_targets, class_logits),
    axis=-1,
  )
  mined = tf.stop_gradient(
    mine(decode_boxes(box_encodings, anchors), classification, targets.match >= 0)
  )
  if image_weights is not None:
    mined *= image_weights[:, None]
  if num_matched is None:
    num_matched = tf.maximum(tf.reduce_sum(targets.box_weights), 1.0)
  return (
    tf.reduce_sum(localization * mined) / num_matched,
    tf.reduce_sum(classification * mined) / num_matched,
  )


def _huber(error: tf.Tensor) -> tf.Tensor:
  """Returns the Huber loss of each element, delta 1."""
  size = tf.abs(error)
  return tf.where(size <= 1.0, 0.5 * tf.square(error), size - 0.5)


def mine(boxes: tf.Tensor, losses: tf.Tensor, is_positive: tf.Tensor) -> tf.Tensor:
  """Returns which anchors enter the losses, float32 `[batch, anchors]` of 0 and 1.

  Of predictions that coincide (IoU above 0.99) the one of the highest loss stays. Of
  those, all positives count, and the negatives of the highest losses: three times as
  many as positives, at least three an image.

  Args:
    boxes: Predicted boxes, `[batch, anchors, 4]`.
    losses: Classification losses, `[batch, anchors]`.
    is_positive: Whether the anchor is matched, bool `[batch, anchors]`.
  """
  num_anchors = losses.shape[1]
  num_kept = min(MAX_MINED, num_anchors)
  rows, num_valid = tf.image.non_max_suppression_padded(
    boxes,
    losses,
    num_kept,
    iou_threshold=MINER_IOU_THRESHOLD,
    score_threshold=float("-inf"),
    pad_to_max_output_size=True,
  )
  # By descending loss. The padding after the last valid row is row 0 again.
  is_valid = tf.sequence_mask(num_valid, num_kept)
  positive = tf.gather(is_positive, rows, batch_dims=1) & is_valid
  num_positives = tf.reduce_sum(tf.cast(positive, tf.int32), axis=1, keepdims=True)
  limit = tf.maximum(MIN_NEGATIVES, NEGATIVES_PER_POSITIVE * num_positives)
  negative = is_valid & ~positive
  rank = tf.cumsum(tf.cast(negative, tf.int32), axis=1)
  selected = tf.cast(positive | (negative & (rank <= limit)), losses.dtype)
  batch = tf.broadcast_to(tf.range(tf.shape(rows)[0])[:, None], tf.shape(rows))
  return tf.tensor_scatter_nd_max(
    tf.zeros_like(losses), tf.stack([batch, rows], axis=-1), selected
  )


def postprocess(
  box_encodings: tf.Tensor,
  class_logits: tf.Tensor,
  anchors: tf.Tensor,
  *,
  score_threshold: float = SCORE_THRESHOLD,
  iou_threshold: float = NMS_IOU_THRESHOLD,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """Turns raw predictions into detections.

  Args:
    box_encodings: `[batch, anchors, 4]`.
    class_logits: `[batch, anchors, num_classes + 1]`, column 0 is the background.
    anchors: `[anchors, 4]`.
    score_threshold: Score above which a prediction counts.
    iou_threshold: IoU above which, of two boxes of a class, the one of less score goes.

  Returns:
    Boxes `[batch, 100, 4]` (ymin, xmin, ymax, xmax, fractions of the image, clipped to
    it), scores `[batch, 100]` in descending order, classes from 0 on `[batch, 100]`,
    all float32 and 0 after the last detection, and their number, int32 `[batch]`.
  """
  boxes = decode_boxes(tf.cast(box_encodings, tf.float32), anchors)
  scores = tf.sigmoid(tf.cast(class_logits, tf.float32))[..., 1:]
  num_anchors, num_classes = scores.shape[1:]
  boxes, scores, classes, _ = tf.image.combined_non_max_suppression(
    boxes[:, :, None],
    scores,
    max_output_size_per_class=MAX_DETECTIONS,
    # All of them: boxes outside of the image, which go next, must take no one's place.
    max_total_size=min(MAX_DETECTIONS, num_anchors) * num_classes,
    iou_threshold=iou_threshold,
    score_threshold=score_threshold,
    clip_boxes=False,
  )
  boxes = tf.clip_by_value(boxes, 0.0, 1.0)
  size = boxes[..., 2:] - boxes[..., :2]
  scores = tf.where(tf.reduce_prod(size, axis=-1) > 0, scores, 0.0)
  num_kept = min(MAX_DETECTIONS, scores.shape[1])
  scores, rows = tf.math.top_k(scores, num_kept)
  is_valid = scores > 0
  missing = [[0, 0], [0, MAX_DETECTIONS - num_kept]]
  boxes = (
    tf.gather(boxes, rows, batch_dims=1) * tf.cast(is_valid, tf.float32)[..., None]
  )
  classes = tf.gather(classes, rows, batch_dims=1) * tf.cast(is_valid, tf.float32)
  counts = tf.reduce_sum(tf.cast(is_valid, tf.int32), axis=1)
  return (
    tf.pad(boxes, [*missing, [0, 0]]),
    tf.pad(scores, missing),
    tf.pad(classes, missing),
    counts,
  )
