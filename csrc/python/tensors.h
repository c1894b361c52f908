// From the tensors of Python to addresses.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "../program/call_builder.h"

namespace fastmaml {

// A call's table of addresses: none, then those of `tensors` in their order. Of one that is not
// contiguous, the address of a copy that is.
class Tensors {
 public:
  explicit Tensors(const pybind11::list& tensors) {
    static PyObject* const is_contiguous = PyUnicode_InternFromString("is_contiguous");
    static PyObject* const contiguous = PyUnicode_InternFromString("contiguous");
    static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
    addresses_.reserve(1 + tensors.size());
    addresses_.push_back(0);
    for (pybind11::handle tensor : tensors) {
      if (!called(tensor, is_contiguous).is(pybind11::handle(Py_True))) {
        copies_.push_back(called(tensor, contiguous));
        tensor = copies_.back();
      }
      addresses_.push_back(called(tensor, data_ptr).cast<Address>());
    }
  }

  const std::vector<Address>& addresses() const { return addresses_; }

 private:
  static pybind11::object called(pybind11::handle object, PyObject* method) {
    PyObject* result = PyObject_CallMethodNoArgs(object.ptr(), method);
    if (!result) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<pybind11::object>(result);
  }

  std::vector<Address> addresses_;
  std::vector<pybind11::object> copies_;
};

}  // namespace fastmaml
