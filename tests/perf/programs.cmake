# Tests that run the built programs; they need everything built.
if(TARGET tutti AND TARGET tutti_command)
  add_test(NAME perf.programs
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/perf_programs_test.sh ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  set_tests_properties(perf.programs PROPERTIES LABELS process TIMEOUT 900 RUN_SERIAL ON)
  add_test(NAME perf.tune
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/tune_test.sh ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  set_tests_properties(perf.tune PROPERTIES LABELS process TIMEOUT 600 RUN_SERIAL ON)
  add_test(NAME perf.topo
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/topo_test.sh ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  set_tests_properties(perf.topo PROPERTIES LABELS process TIMEOUT 300)
  if(NOT TUTTI_SANITIZE)  # a consumer would have to be built with the sanitizer too
    add_test(NAME perf.install COMMAND ${CMAKE_CURRENT_LIST_DIR}/install_test.sh
      ${PROJECT_BINARY_DIR} ${PROJECT_SOURCE_DIR} ${CMAKE_CXX_COMPILER})
    set_tests_properties(perf.install PROPERTIES LABELS process TIMEOUT 600)
  endif()
endif()
if(TARGET fake_libcuda AND TARGET all_reduce_perf)
  add_test(NAME perf.device COMMAND ${CMAKE_CURRENT_LIST_DIR}/device_perf_test.sh
    ${CMAKE_RUNTIME_OUTPUT_DIRECTORY} ${PROJECT_BINARY_DIR}/lib/fake)
  set_tests_properties(perf.device PROPERTIES LABELS process TIMEOUT 600)
endif()
if(TARGET peer_gloo)  # needs no launcher, so it can show that the peers' side checks data too
  add_test(NAME perf.peer_gloo COMMAND peer_gloo --ranks 2 --algorithm ring -b 64 -e 4K -f 64 -n 2)
  set_tests_properties(perf.peer_gloo PROPERTIES LABELS process TIMEOUT 120)
endif()
