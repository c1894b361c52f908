// What tells calls apart that differ in more than the numbers in their tensors.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "tensor_view.h"

namespace fastmaml {

// Of a tensor its type, shape, dtype, device and whether it requires grad; of a number, a string or
// None itself; of a tuple or a dict what it holds.
class Signature {
 public:
  // None of what can change otherwise, or has a meaning of its own: subclasses of Tensor, tensors
  // without memory, lists, objects.
  static std::optional<Signature> of(pybind11::handle value);

  // Whether `value` has this signature. Numbers of different types have not, though they be equal.
  bool fits(PyObject* value) const;

 private:
  enum class Kind { plain, tensor, tuple, dict };

  Signature(Kind kind, pybind11::handle value);
  bool tensor_fits(PyObject* value) const;
  bool tuple_fits(PyObject* value) const;
  bool dict_fits(PyObject* value) const;

  Kind kind_;
  pybind11::object type_;
  pybind11::object value_;        // of a plain value; of a dict its keys
  std::vector<Signature> items_;  // of a tuple or a dict
  std::vector<int64_t> shape_;    // of a tensor, as the rest
  uint64_t dtype_ = 0, device_ = 0;
  bool requires_grad_ = false;
};

}  // namespace fastmaml
