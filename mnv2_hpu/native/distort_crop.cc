// Resizes, flips and color-jitters a crop in one pass over its pixels.
//
// What mnv2_hpu/dataloaders/inception_preprocessing.py computes with TensorFlow's
// operations: bilinear resize as TensorFlow 1 did (corners not aligned, no half-pixel
// centers), bit for bit; then for training flip, brightness, saturation, clip to [0, 1],
// range [-1, 1], within rounding, or flip and whole levels, where a device does the
// others; for evaluation the range.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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

REGISTER_OP("Mnv2HpuResizeForEval")
    .Input("crop: uint8")
    .Attr("height: int >= 1")
    .Attr("width: int >= 1")
    .Output("image: float")
    .SetShapeFn(ImageShape)
    .Doc(R"doc(
Resizes a crop.

crop: [h, w, 3].
image: [height, width, 3], in [-1, 1].
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
    Run(context, crop, image);
  }

 protected:
  virtual void Run(OpKernelContext* context, const Tensor& crop,
                   Tensor* image) const = 0;

  // Calls emit(first pixel, top, bottom, weight) for each row of the resized crop, which
  // is Between() two rows that have its width. As TensorFlow's ResizeBilinear does:
  // columns before rows, and multiplied before it is added (-ffp-contract=off).
  template <typename Emit>
  void ForEachRow(const Tensor& crop, bool flip, Emit emit) const {
    const int in_height = crop.dim_size(0), in_width = crop.dim_size(1);
    const std::uint8_t* in = crop.flat<std::uint8_t>().data();
    const float scale_y = static_cast<float>(in_height) / height_;
    const float scale_x = static_cast<float>(in_width) / width_;
    std::vector<int> left(width_), right(width_);
    std::vector<float> weight(width_);
    for (int x = 0; x < width_; ++x) {
      const float position = (flip ? width_ - 1 - x : x) * scale_x;
      const int lower = static_cast<int>(position);
      left[x] = 3 * lower;
      right[x] = 3 * std::min(lower + 1, in_width - 1);
      weight[x] = position - lower;
    }
    // A pixel is read and written with the color that follows it.
    std::vector<float> pixels(3 * in_width + 1);
    std::vector<float> rows[2] = {std::vector<float>(3 * width_ + 1),
                                  std::vector<float>(3 * width_ + 1)};
    int held[2] = {-1, -1};  // each row of the crop is interpolated at most once
    const auto row = [&](int number) -> const float* {
      float* interpolated = rows[number % 2].data();
      if (held[number % 2] != number) {
        std::copy_n(in + 3L * in_width * number, 3 * in_width, pixels.data());
        InterpolateColumns(pixels.data(), left.data(), right.data(), weight.data(),
                           interpolated);
        held[number % 2] = number;
      }
      return interpolated;
    };
    for (int y = 0; y < height_; ++y) {
      const float position = y * scale_y;
      const int lower = static_cast<int>(position);
      emit(3L * width_ * y, row(lower), row(std::min(lower + 1, in_height - 1)),
           position - lower);
    }
  }

  // Levels / 255.
  static float Between(float top, float bottom, float weight) {
    return (top + (bottom - top) * weight) * (1.0f / 255.0f);
  }

  static float ToMinusOneOne(float value) { return (value - 0.5f) * 2.0f; }

  int height_, width_;

 private:
  void InterpolateColumns(const float* pixels, const int* left, const int* right,
                          const float* weight, float* row) const {
    typedef float Pixel __attribute__((vector_size(16)));  // and the color after it
    for (int x = 0; x < width_; ++x) {
      Pixel a, b;
      std::memcpy(&a, pixels + left[x], sizeof(a));
      std::memcpy(&b, pixels + right[x], sizeof(b));
      const Pixel between = a + (b - a) * weight[x];
      std::memcpy(row + 3 * x, &between, sizeof(between));
    }
  }
};

class DistortCropOp : public CropOp {
 public:
  using CropOp::CropOp;

 private:
  void Run(OpKernelContext* context, const Tensor& crop,
           Tensor* image) const override {
    const bool flip = context->input(1).scalar<bool>()();
    const float brightness = context->input(2).scalar<float>()();
    const float saturation = context->input(3).scalar<float>()();
    float* out = image->flat<float>().data();
    std::vector<float> colors(3 * width_);
    ForEachRow(crop, flip,
               [&](long first, const float* top, const float* bottom, float weight) {
                 for (int i = 0; i < 3 * width_; ++i)
                   colors[i] = Between(top[i], bottom[i], weight) + brightness;
                 Saturate(colors.data(), saturation, out + first);
               });
  }

  // In HSV the saturation's factor scales each color's distance to the brightest one,
  // up to where the darkest is 0.
  void Saturate(const float* colors, float factor, float* out) const {
    for (int x = 0; x < 3 * width_; x += 3) {
      const float red = colors[x], green = colors[x + 1], blue = colors[x + 2];
      const float value = std::max(red, std::max(green, blue));
      const float range = value - std::min(red, std::min(green, blue));
      const float limit = value > 0 ? value / std::max(range, 1e-12f) : 0.0f;
      const float scale = std::min(factor, limit);
      out[x] = Finish(value - (value - red) * scale);
      out[x + 1] = Finish(value - (value - green) * scale);
      out[x + 2] = Finish(value - (value - blue) * scale);
    }
  }

  static float Finish(float value) {
    return ToMinusOneOne(std::min(std::max(value, 0.0f), 1.0f));
  }
};

class ResizeCropOp : public CropOp {
 public:
  using CropOp::CropOp;

 private:
  void Run(OpKernelContext* context, const Tensor& crop,
           Tensor* image) const override {
    const bool flip = context->input(1).scalar<bool>()();
    std::uint8_t* out = image->flat<std::uint8_t>().data();
    const int size = 3 * width_;
    ForEachRow(crop, flip,
               [=](long first, const float* top, const float* bottom, float weight) {
                 for (int i = 0; i < size; ++i)
                   out[first + i] = static_cast<std::uint8_t>(
                       std::nearbyint(Between(top[i], bottom[i], weight) * 255.0f));
               });
  }
};

class ResizeForEvalOp : public CropOp {
 public:
  using CropOp::CropOp;

 private:
  void Run(OpKernelContext* context, const Tensor& crop,
           Tensor* image) const override {
    float* out = image->flat<float>().data();
    ForEachRow(crop, false,
               [=](long first, const float* top, const float* bottom, float weight) {
                 for (int i = 0; i < 3 * width_; ++i)
                   out[first + i] = ToMinusOneOne(Between(top[i], bottom[i], weight));
               });
  }
};

REGISTER_KERNEL_BUILDER(Name("Mnv2HpuDistortCrop").Device(tensorflow::DEVICE_CPU),
                        DistortCropOp);
REGISTER_KERNEL_BUILDER(Name("Mnv2HpuResizeCrop").Device(tensorflow::DEVICE_CPU),
                        ResizeCropOp);
REGISTER_KERNEL_BUILDER(Name("Mnv2HpuResizeForEval").Device(tensorflow::DEVICE_CPU),
                        ResizeForEvalOp);

}  // namespace mnv2_hpu
