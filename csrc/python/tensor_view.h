// What a tensor is and where its numbers are, read without torch's headers.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "../program/call_builder.h"

namespace fastmaml {

// A tensor of Python's, as long as that lives and nobody changes it.
class TensorView {
 public:
  // Through the C functions that torch offers since 2.10 (DLPack 1.2, "exchange API"), or else
  // through the tensor's attributes. Throws what torch raises of a tensor without memory of its
  // own: sparse, nested, on the meta device.
  explicit TensorView(PyObject* tensor);

  Address address() const { return address_; }
  int rank() const { return rank_; }
  const int64_t* shape() const { return shape_; }
  // In torch's order of axes, without gaps, and as it says: a tensor may also stand for the
  // negative of what is there (`Tensor.is_neg`).
  bool is_plain() const { return is_plain_; }
  // Numbers that tell dtypes and devices apart.
  uint64_t dtype() const { return dtype_; }
  uint64_t device() const { return device_; }

 private:
  static constexpr int most_axes = 64;  // as in torch

  void read_attributes(PyObject* tensor);

  Address address_ = 0;
  int rank_ = 0;
  bool is_plain_ = false;
  uint64_t dtype_ = 0, device_ = 0;
  const int64_t* shape_ = nullptr;
  int64_t own_shape_[most_axes];
};

}  // namespace fastmaml
