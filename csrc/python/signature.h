// What tells calls apart that differ in more than the numbers in their tensors.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

namespace fastmaml {

// Of a tensor its type, shape, dtype, device, layout and whether it requires grad; of a number, a
// string or None itself; of a tuple or a dict what it holds.
class Signature {
 public:
  // None of what can change otherwise, or has a meaning of its own: subclasses of Tensor, nested
  // tensors, lists, objects.
  static std::optional<Signature> of(pybind11::handle value);

  // Whether `value` has this signature. Numbers of different types have not, though they be equal.
  bool fits(PyObject* value) const;

 private:
  enum class Kind { plain, tensor, tuple, dict };

  Signature(Kind kind, pybind11::handle value);
  bool read_tensor();
  bool tensor_fits(PyObject* value) const;
  bool items_fit(PyObject* value) const;

  Kind kind_;
  pybind11::object type_;
  pybind11::object value_;        // of a plain value; of a dict its keys
  std::vector<Signature> items_;  // of a tuple or a dict
  pybind11::object shape_, dtype_, device_, layout_, requires_grad_;  // of a tensor
};

}  // namespace fastmaml
