// Resizes, flips and color-jitters a crop in one pass over its pixels.
//
// What mnv2_hpu/dataloaders/inception_preprocessing.py computes with TensorFlow's
// operations, within rounding: bilinear resize as TensorFlow 1 did (corners not aligned,
// no half-pixel centers), flip, brightness, saturation, clip to [0, 1], range [-1, 1];
// or the first two alone, rounded, where a device does the others.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace mnv2_hpu {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::errors::InvalidArgument;

tensorflow::Status ImageShape(tensorflow::shape_inference::InferenceContext* context) {
  int height, width;
  TF_RETURN_IF_ERROR(context->GetAttr("height", &height));
  TF_RETURN_IF_ERROR(context->GetAttr("width", &width));
  context->set_output(0, context->MakeShape({height, width, 3}));
  return tensorflow::OkStatus();
}

REGISTER_OP("Mnv2HpuDistortCrop")
    .Input("crop: uint8")
    .Input("flip: bool")
    .Input("brightness_delta: float")
    .Input("saturation_factor: float")
    .Attr("height: int >= 1")
    .Attr("width: int >= 1")
    .Output("image: float")
    .SetShapeFn(ImageShape)
    .Doc(R"doc(
Resizes, flips and color-jitters a crop.

crop: [h, w, 3].
flip: Whether to mirror it.
brightness_delta: Added to pixels in [0, 1].
saturation_factor: Factor of the saturation, at least 0.
image: [height, width, 3], in [-1, 1].
)doc");

REGISTER_OP("Mnv2HpuResizeCrop")
    .Input("crop: uint8")
    .Input("flip: bool")
    .Attr("height: int >= 1")
    .Attr("width: int >= 1")
    .Output("image: uint8")
    .SetShapeFn(ImageShape)
    .Doc(R"doc(
Resizes and flips a crop.

crop: [h, w, 3].
flip: Whether to mirror it.
image: [height, width, 3], rounded.
)doc");

class CropOp : public OpKernel {
 public:
  explicit CropOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("height", &height_));
    OP_REQUIRES_OK(context, context->GetAttr("width", &width_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& crop = context->input(0);
    OP_REQUIRES(context, crop.dims() == 3 && crop.dim_size(2) == 3,
                InvalidArgument("crop must be [h, w, 3], not ",
                                crop.shape().DebugString()));
    OP_REQUIRES(context, crop.NumElements() > 0, InvalidArgument("crop is empty"));
    Tensor* image = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, {height_, width_, 3}, &image));
    Run(context, crop, context->input(1).scalar<bool>()(), image);
  }

 protected:
  virtual void Run(OpKernelContext* context, const Tensor& crop, bool flip,
                   Tensor* image) const = 0;

  // Calls emit(first pixel, red, green, blue) for each row of the resized crop, whose
  // colors are those of the crop by `scale`, and `brightness` more.
  template <typename Emit>
  void ForEachRow(const Tensor& crop, bool flip, float scale, float brightness,
                  Emit emit) const {
    const int in_height = crop.dim_size(0), in_width = crop.dim_size(1);
    const std::uint8_t* in = crop.flat<std::uint8_t>().data();
    const float scale_y = static_cast<float>(in_height) / height_;
    const float scale_x = static_cast<float>(in_width) / width_;
    std::vector<int> left(width_), right(width_);
    std::vector<float> weight(width_), row(3 * in_width), planes(3 * width_);
    for (int x = 0; x < width_; ++x) {
      const float position = (flip ? width_ - 1 - x : x) * scale_x;
      const int lower = static_cast<int>(position);
      left[x] = 3 * lower;
      right[x] = 3 * std::min(lower + 1, in_width - 1);
      weight[x] = position - lower;
    }
    for (int y = 0; y < height_; ++y) {
      const float position = y * scale_y;
      const int lower = static_cast<int>(position);
      const std::uint8_t* top = in + 3L * in_width * lower;
      const std::uint8_t* bottom =
          in + 3L * in_width * std::min(lower + 1, in_height - 1);
      InterpolateRows(top, bottom, position - lower, scale, 3 * in_width, row.data());
      float* red = planes.data();
      InterpolateColumns(row.data(), left.data(), right.data(), weight.data(),
                         brightness, red, red + width_, red + 2 * width_);
      emit(3L * width_ * y, red, red + width_, red + 2 * width_);
    }
  }

  int height_, width_;

 private:
  static void InterpolateRows(const std::uint8_t* top, const std::uint8_t* bottom,
                              float weight, float scale, int size, float* row) {
    for (int i = 0; i < size; ++i) {
      const float a = top[i], b = bottom[i];
      row[i] = (a + (b - a) * weight) * scale;
    }
  }

  void InterpolateColumns(const float* row, const int* left, const int* right,
                          const float* weight, float brightness, float* red,
                          float* green, float* blue) const {
    for (int x = 0; x < width_; ++x) {
      const float *a = row + left[x], *b = row + right[x];
      red[x] = a[0] + (b[0] - a[0]) * weight[x] + brightness;
      green[x] = a[1] + (b[1] - a[1]) * weight[x] + brightness;
      blue[x] = a[2] + (b[2] - a[2]) * weight[x] + brightness;
    }
  }
};

class DistortCropOp : public CropOp {
 public:
  using CropOp::CropOp;

 private:
  void Run(OpKernelContext* context, const Tensor& crop, bool flip,
           Tensor* image) const override {
    const float brightness = context->input(2).scalar<float>()();
    const float saturation = context->input(3).scalar<float>()();
    float* out = image->flat<float>().data();
    ForEachRow(crop, flip, 1.0f / 255.0f, brightness,
               [=](long first, float* red, float* green, float* blue) {
                 Saturate(red, green, blue, saturation, out + first);
               });
  }

  // In HSV the saturation's factor scales each color's distance to the brightest one,
  // up to where the darkest is 0.
  void Saturate(float* red, float* green, float* blue, float factor,
                float* out) const {
    for (int x = 0; x < width_; ++x) {
      const float value = std::max(red[x], std::max(green[x], blue[x]));
      const float range = value - std::min(red[x], std::min(green[x], blue[x]));
      const float limit = value > 0 ? value / std::max(range, 1e-12f) : 0.0f;
      const float scale = std::min(factor, limit);
      red[x] = Finish(value - (value - red[x]) * scale);
      green[x] = Finish(value - (value - green[x]) * scale);
      blue[x] = Finish(value - (value - blue[x]) * scale);
    }
    for (int x = 0; x < width_; ++x) {
      out[3 * x] = red[x];
      out[3 * x + 1] = green[x];
      out[3 * x + 2] = blue[x];
    }
  }

  static float Finish(float value) {
    return (std::min(std::max(value, 0.0f), 1.0f) - 0.5f) * 2.0f;
  }
};

class ResizeCropOp : public CropOp {
 public:
  using CropOp::CropOp;

 private:
  void Run(OpKernelContext* context, const Tensor& crop, bool flip,
           Tensor* image) const override {
    std::uint8_t* out = image->flat<std::uint8_t>().data();
    ForEachRow(crop, flip, 1.0f, 0.0f,
               [=](long first, const float* red, const float* green, const float* blue) {
                 Round(red, green, blue, out + first);
               });
  }

  void Round(const float* red, const float* green, const float* blue,
             std::uint8_t* out) const {
    for (int x = 0; x < width_; ++x) {
      out[3 * x] = static_cast<std::uint8_t>(std::nearbyint(red[x]));
      out[3 * x + 1] = static_cast<std::uint8_t>(std::nearbyint(green[x]));
      out[3 * x + 2] = static_cast<std::uint8_t>(std::nearbyint(blue[x]));
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("Mnv2HpuDistortCrop").Device(tensorflow::DEVICE_CPU),
                        DistortCropOp);
REGISTER_KERNEL_BUILDER(Name("Mnv2HpuResizeCrop").Device(tensorflow::DEVICE_CPU),
                        ResizeCropOp);

}  // namespace mnv2_hpu
