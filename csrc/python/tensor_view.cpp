#include "tensor_view.h"

namespace fastmaml {
namespace py = pybind11;
namespace {

// The parts of DLPack 1.x that are read here; https://dmlc.github.io/dlpack/latest/c_api.html
namespace dlpack {

struct Tensor {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t rank;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct ExchangeApi {
  struct {
    uint32_t major, minor;
  } version;
  void* previous;
  void *allocate, *from_object, *to_object;
  int (*view)(void* object, Tensor* view);  // may be null; does not own what it shows
  void* current_stream;
};

const ExchangeApi* of_torch() {
  const py::object tensor = py::module_::import("torch").attr("Tensor");
  const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  const auto* api =
      static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  return api->version.major == 1 && api->view ? api : nullptr;
}

}  // namespace dlpack

// Attributes' names, made once: a lookup by an interned string compares addresses.
struct Names {
  PyObject* shape = PyUnicode_InternFromString("shape");
  PyObject* dtype = PyUnicode_InternFromString("dtype");
  PyObject* device = PyUnicode_InternFromString("device");
  PyObject* is_contiguous = PyUnicode_InternFromString("is_contiguous");
  PyObject* is_neg = PyUnicode_InternFromString("is_neg");
  PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
};

const Names& names() {
  static const Names names;
  return names;
}

py::object checked(PyObject* result) {
  if (!result) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

py::object attribute(PyObject* tensor, PyObject* name) {
  return checked(PyObject_GetAttr(tensor, name));
}

bool is(PyObject* tensor, PyObject* question) {
  return checked(PyObject_CallMethodNoArgs(tensor, question)).ptr() == Py_True;
}

}  // namespace

TensorView::TensorView(PyObject* tensor) {
  static const dlpack::ExchangeApi* const api = dlpack::of_torch();
  if (!api) {
    read_attributes(tensor);
    return;
  }
  dlpack::Tensor view;
  if (api->view(tensor, &view) != 0) throw py::error_already_set();
  address_ = reinterpret_cast<Address>(view.data) + view.byte_offset;
  rank_ = view.rank;
  shape_ = view.shape;
  dtype_ = uint64_t{view.dtype.code} << 32 | uint64_t{view.dtype.bits} << 16 | view.dtype.lanes;
  device_ = uint64_t(view.device.type) << 32 | uint32_t(view.device.id);
  int64_t next = 1;
  is_plain_ = true;
  for (int axis = rank_ - 1; axis >= 0; --axis) {
    if (shape_[axis] != 1 && view.strides[axis] != next) is_plain_ = false;
    next *= shape_[axis];
  }
  if (next == 0) is_plain_ = true;
  // The negative of what is there is half of a complex tensor, which has gaps, but for one number.
  if (next == 1 && is_plain_) is_plain_ = !is(tensor, names().is_neg);
}

void TensorView::read_attributes(PyObject* tensor) {
  const Names& name = names();
  const py::tuple shape = attribute(tensor, name.shape);
  rank_ = static_cast<int>(shape.size());
  if (rank_ > most_axes) throw py::value_error("a tensor has too many axes");
  for (int axis = 0; axis < rank_; ++axis) own_shape_[axis] = shape[axis].cast<int64_t>();
  shape_ = own_shape_;
  dtype_ =
      reinterpret_cast<uintptr_t>(attribute(tensor, name.dtype).ptr());  // there is one of each
  device_ = py::hash(attribute(tensor, name.device));
  is_plain_ = is(tensor, name.is_contiguous) && !is(tensor, name.is_neg);
  address_ = checked(PyObject_CallMethodNoArgs(tensor, name.data_ptr)).cast<Address>();
}

}  // namespace fastmaml
