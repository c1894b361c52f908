#include "signature.h"

#include <algorithm>
#include <array>

namespace fastmaml {
namespace py = pybind11;
namespace {

bool requires_grad(PyObject* tensor) {
  static PyObject* const name = PyUnicode_InternFromString("requires_grad");
  const auto flag = py::reinterpret_steal<py::object>(PyObject_GetAttr(tensor, name));
  if (!flag) throw py::error_already_set();
  return flag.ptr() == Py_True;
}

bool equal(PyObject* a, PyObject* b) {
  if (a == b) return true;
  const int same = PyObject_RichCompareBool(a, b, Py_EQ);
  if (same < 0) throw py::error_already_set();
  return same;
}

bool is_plain(py::handle value) {
  const PyTypeObject* type = Py_TYPE(value.ptr());
  return value.is_none() || type == &PyBool_Type || type == &PyLong_Type || type == &PyFloat_Type ||
         type == &PyUnicode_Type;
}

// torch.Tensor and torch.nn.Parameter themselves, which live as long as the process.
bool is_tensor(py::handle value) {
  static const std::array<py::handle, 2> types{
      py::object(py::module_::import("torch").attr("Tensor")).release(),
      py::object(py::module_::import("torch.nn").attr("Parameter")).release()};
  const py::handle type = reinterpret_cast<PyObject*>(Py_TYPE(value.ptr()));
  return type.is(types[0]) || type.is(types[1]);
}

}  // namespace

Signature::Signature(Kind kind, py::handle value) : kind_(kind), type_(py::type::of(value)) {}

std::optional<Signature> Signature::of(py::handle value) {
  const auto held = py::reinterpret_borrow<py::object>(value);
  if (is_plain(value)) {
    Signature signature(Kind::plain, value);
    signature.value_ = held;
    return signature;
  }
  if (is_tensor(value)) {
    try {
      const TensorView view(value.ptr());
      Signature signature(Kind::tensor, value);
      signature.shape_.assign(view.shape(), view.shape() + view.rank());
      signature.dtype_ = view.dtype();
      signature.device_ = view.device();
      signature.requires_grad_ = requires_grad(value.ptr());
      return signature;
    } catch (const py::error_already_set&) {  // it has no memory
      return {};
    }
  }
  const bool is_dict = PyDict_Check(value.ptr());
  if (!is_dict && !PyTuple_Check(value.ptr())) return {};
  Signature signature(is_dict ? Kind::dict : Kind::tuple, value);
  if (is_dict) {
    signature.value_ = py::tuple(held);
    if (!of(signature.value_)) return {};
  }
  for (const py::handle item : py::tuple(is_dict ? py::object(held.attr("values")()) : held)) {
    std::optional<Signature> of_item = of(item);
    if (!of_item) return {};
    signature.items_.push_back(std::move(*of_item));
  }
  return signature;
}

bool Signature::fits(PyObject* value) const {
  if (reinterpret_cast<PyObject*>(Py_TYPE(value)) != type_.ptr()) return false;
  switch (kind_) {
    case Kind::plain:
      return equal(value_.ptr(), value);
    case Kind::tensor:
      return tensor_fits(value);
    case Kind::tuple:
      return tuple_fits(value);
    case Kind::dict:
      return dict_fits(value);
  }
  return false;
}

bool Signature::tensor_fits(PyObject* value) const {
  try {
    const TensorView view(value);
    return view.rank() == static_cast<int>(shape_.size()) &&
           std::equal(shape_.begin(), shape_.end(), view.shape()) && view.dtype() == dtype_ &&
           view.device() == device_ && requires_grad(value) == requires_grad_;
  } catch (const py::error_already_set&) {
    return false;
  }
}

bool Signature::tuple_fits(PyObject* value) const {
  if (PyTuple_GET_SIZE(value) != static_cast<Py_ssize_t>(items_.size())) return false;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (!items_[i].fits(PyTuple_GET_ITEM(value, i))) return false;
  }
  return true;
}

bool Signature::dict_fits(PyObject* value) const {
  if (PyDict_Size(value) != static_cast<Py_ssize_t>(items_.size())) return false;
  Py_ssize_t position = 0;
  for (size_t i = 0; i < items_.size(); ++i) {
    PyObject *key, *item;
    if (!PyDict_Next(value, &position, &key, &item)) return false;
    const py::object held_key = py::reinterpret_borrow<py::object>(key);
    const py::object held_item = py::reinterpret_borrow<py::object>(item);
    if (!equal(PyTuple_GET_ITEM(value_.ptr(), i), key) || !items_[i].fits(item)) return false;
  }
  return true;
}

}  // namespace fastmaml
