// An empty Python module: importing it runs the registrations of its library.
#pragma once

#include <Python.h>

// A program without Python loads the library too, never calls the function below, and has no CPython to name here.
#if defined(__GNUC__)
#pragma weak PyModule_Create2
#endif

#define FASTCAM_PYTHON_MODULE(name)                                                       \
  PyMODINIT_FUNC PyInit_##name() {                                                        \
    static PyModuleDef definition = {PyModuleDef_HEAD_INIT, #name, nullptr, -1, nullptr}; \
    return PyModule_Create(&definition);                                                  \
  }                                                                                       \
  static_assert(true, "")
