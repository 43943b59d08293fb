// PyInit__C: what `import gdext._C` calls. The module is empty: loading the library registers the ops.
//
// Python.h is not included, so that a machine without Python's headers can build gdext. The declarations below
// are the part of Python's stable ABI (abi3) that an empty module needs; their layout is frozen.
// Source: https://docs.python.org/3/c-api/stable.html

#include <cstddef>

extern "C" {

struct PyModuleDef {
  // PyModuleDef_Base, PyModuleDef_HEAD_INIT
  std::ptrdiff_t ob_refcnt;
  void* ob_type;
  void* m_init;
  std::ptrdiff_t m_index;
  void* m_copy;
  // PyModuleDef
  const char* m_name;
  const char* m_doc;
  std::ptrdiff_t m_size;
  void* m_methods;
  void* m_slots;
  void* m_traverse;
  void* m_clear;
  void* m_free;
};

void* PyModuleDef_Init(PyModuleDef* def);

__attribute__((visibility("default"))) void* PyInit__C() {
  // One reference that is never given back: the definition is not on the heap.
  static PyModuleDef def = {1,       nullptr, nullptr, 0,       nullptr, "_C",    nullptr,
                            0,       nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModuleDef_Init(&def);
}
}
