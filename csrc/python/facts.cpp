#include "facts.h"

namespace fastmaml {
namespace py = pybind11;
namespace {

// Item `index` of a tuple.
PyObject* item(PyObject* tuple, Py_ssize_t index) { return PyTuple_GET_ITEM(tuple, index); }

template <class Function>
bool all_of(PyObject* tuple, Function holds) {
  const Py_ssize_t size = PyTuple_GET_SIZE(tuple);
  for (Py_ssize_t i = 0; i < size; ++i) {
    if (!holds(item(tuple, i))) return false;
  }
  return true;
}

// What a weak reference refers to; null where that is gone. All is borrowed: the caller's thread
// has the interpreter, and no code of Python's runs between a look and the next.
PyObject* referent(PyObject* reference) {
#if PY_VERSION_HEX >= 0x030d0000
  PyObject* object = nullptr;
  if (PyWeakref_GetRef(reference, &object) < 0) throw py::error_already_set();
  Py_XDECREF(object);  // its owner, a module, holds it
  return object;
#else
  PyObject* object = PyWeakref_GetObject(reference);
  return object == Py_None ? nullptr : object;
#endif
}

PyObject* looked_up(PyObject* dict, PyObject* name) {
  PyObject* value = PyDict_GetItemWithError(dict, name);
  if (!value && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

bool dict_holds(PyObject* fact, PyObject* state, const py::function& freeze) {
  PyObject* registry = item(fact, 0);
  PyObject* dict = registry == Py_None ? state : looked_up(state, registry);
  if (!dict || !PyDict_Check(dict)) return false;
  const py::object owned = py::reinterpret_borrow<py::object>(dict);  // freeze may run anything
  if (PyDict_Size(dict) != PyLong_AsSsize_t(item(fact, 1))) return false;
  return all_of(item(fact, 2),
                [=](PyObject* pair) { return looked_up(dict, item(pair, 0)) == item(pair, 1); }) &&
         all_of(item(fact, 3),
                [=](PyObject* pair) {
                  PyObject* value = looked_up(dict, item(pair, 0));
                  return value && referent(item(pair, 1)) == value;
                }) &&
         all_of(item(fact, 4), [=, &freeze](PyObject* pair) {
           PyObject* value = looked_up(dict, item(pair, 0));
           return value && freeze(py::handle(value)).equal(py::handle(item(pair, 1)));
         });
}

}  // namespace

bool facts_hold(const py::tuple& facts, const py::function& freeze) {
  static PyObject* const forward = PyUnicode_InternFromString("forward");
  static PyObject* const dict = PyUnicode_InternFromString("__dict__");
  return all_of(facts.ptr(), [&](PyObject* fact) {
    PyObject* module = referent(item(fact, 0));
    PyObject* type = item(fact, 1);
    if (!module || reinterpret_cast<PyObject*>(Py_TYPE(module)) != type) return false;
    if (!py::getattr(type, forward).is(py::handle(item(fact, 2)))) return false;
    const py::object owner = py::reinterpret_borrow<py::object>(module);
    const py::object state = py::getattr(owner, dict);
    return all_of(item(fact, 3),
                  [&](PyObject* of_dict) { return dict_holds(of_dict, state.ptr(), freeze); });
  });
}

}  // namespace fastmaml
