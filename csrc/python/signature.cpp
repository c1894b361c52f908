#include "signature.h"

#include <array>

namespace fastmaml {
namespace py = pybind11;
namespace {

// Names of attributes, made once: a lookup by an interned string compares addresses.
struct Names {
  PyObject* shape = PyUnicode_InternFromString("shape");
  PyObject* dtype = PyUnicode_InternFromString("dtype");
  PyObject* device = PyUnicode_InternFromString("device");
  PyObject* layout = PyUnicode_InternFromString("layout");
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
};

const Names& names() {
  static const Names names;
  return names;
}

py::object attribute(PyObject* value, PyObject* name) {
  return py::reinterpret_steal<py::object>(PyObject_GetAttr(value, name));
}

// Equal, where comparing raises nothing.
bool equal(const py::object& a, const py::object& b) {
  if (!a || !b) {
    PyErr_Clear();
    return false;
  }
  if (a.is(b)) return true;
  const int same = PyObject_RichCompareBool(a.ptr(), b.ptr(), Py_EQ);
  if (same < 0) PyErr_Clear();
  return same > 0;
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

Signature::Signature(Kind kind, py::handle value)
    : kind_(kind), type_(py::type::of(value)), value_(py::reinterpret_borrow<py::object>(value)) {}

std::optional<Signature> Signature::of(py::handle value) {
  if (is_plain(value)) return Signature(Kind::plain, value);
  if (is_tensor(value)) {
    if (value.attr("is_nested").cast<bool>()) return {};
    Signature signature(Kind::tensor, value);
    signature.value_ = py::object();
    signature.shape_ = value.attr("shape");
    signature.dtype_ = value.attr("dtype");
    signature.device_ = value.attr("device");
    signature.layout_ = value.attr("layout");
    signature.requires_grad_ = value.attr("requires_grad");
    return signature;
  }
  const bool is_dict = PyDict_Check(value.ptr());
  if (!is_dict && !PyTuple_Check(value.ptr())) return {};
  Signature signature(is_dict ? Kind::dict : Kind::tuple, value);
  const auto held = py::reinterpret_borrow<py::object>(value);
  if (is_dict) {
    signature.value_ = py::tuple(held);
    if (!of(signature.value_)) return {};
  }
  const py::tuple items(is_dict ? py::object(held.attr("values")()) : held);
  for (const py::handle item : items) {
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
      return equal(value_, py::reinterpret_borrow<py::object>(value));
    case Kind::tensor:
      return tensor_fits(value);
    default:
      return items_fit(value);
  }
}

bool Signature::tensor_fits(PyObject* value) const {
  const Names& name = names();
  return equal(attribute(value, name.shape), shape_) &&
         equal(attribute(value, name.dtype), dtype_) &&
         equal(attribute(value, name.requires_grad), requires_grad_) &&
         equal(attribute(value, name.device), device_) &&
         equal(attribute(value, name.layout), layout_);
}

bool Signature::items_fit(PyObject* value) const {
  const auto count = static_cast<Py_ssize_t>(items_.size());
  if (kind_ == Kind::tuple) {
    if (PyTuple_GET_SIZE(value) != count) return false;
    for (Py_ssize_t i = 0; i < count; ++i) {
      if (!items_[i].fits(PyTuple_GET_ITEM(value, i))) return false;
    }
    return true;
  }
  if (PyDict_Size(value) != count) return false;
  Py_ssize_t position = 0;
  PyObject *key, *item;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!PyDict_Next(value, &position, &key, &item)) return false;
    const py::object held_key = py::reinterpret_borrow<py::object>(key);
    const py::object held = py::reinterpret_borrow<py::object>(item);
    const py::handle wanted = PyTuple_GET_ITEM(value_.ptr(), i);
    if (!equal(held_key, py::reinterpret_borrow<py::object>(wanted))) return false;
    if (!items_[i].fits(held.ptr())) return false;
  }
  return true;
}

}  // namespace fastmaml
