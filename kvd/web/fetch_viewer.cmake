# Puts the viewer's files into VIEWER_DIR, or empty files where they cannot be had, so that a build without a network
# ends well. Delete VIEWER_DIR to try again.
set(files swagger-ui-bundle.js swagger-ui.css favicon-32x32.png LICENSE NOTICE)
set(compressed swagger-ui-bundle.js swagger-ui.css)

function(go_without why)
  message("kvd: no API viewer (${why}); /api/v1/kv/swagger-ui will be a plain page. To try again delete ${VIEWER_DIR}")
  foreach(file IN LISTS files)
    file(WRITE ${VIEWER_DIR}/${file} "")
  endforeach()
  foreach(file IN LISTS compressed)
    file(WRITE ${VIEWER_DIR}/${file}.gz "")
  endforeach()
endfunction()

if(NOT WANTED)
  go_without("KV_VIEWER is off")
  return()
endif()
if(NOT NPM OR NOT NODE)
  go_without("npm was not found")
  return()
endif()

# npm ci takes exactly what package-lock.json names, and checks its hash.
foreach(file IN ITEMS package.json package-lock.json)
  configure_file(${SOURCE_DIR}/${file} ${WORK_DIR}/${file} COPYONLY)
endforeach()
execute_process(
    COMMAND ${NPM} ci --ignore-scripts --no-audit --no-fund
    WORKING_DIRECTORY ${WORK_DIR}
    RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET TIMEOUT 300)
if(failed)
  go_without("npm could not fetch it")
  return()
endif()

foreach(file IN LISTS files)
  file(COPY ${WORK_DIR}/node_modules/swagger-ui-dist/${file} DESTINATION ${VIEWER_DIR})
  file(TOUCH ${VIEWER_DIR}/${file})
endforeach()
# node's gzip writes no time stamp: the same files give the same kvd.
set(gzip "const fs = require('fs'), zlib = require('zlib');
for (const file of process.argv.slice(1)) fs.writeFileSync(file + '.gz', zlib.gzipSync(fs.readFileSync(file), {level: 9}));")
execute_process(COMMAND ${NODE} -e "${gzip}" ${compressed} WORKING_DIRECTORY ${VIEWER_DIR} RESULT_VARIABLE failed)
if(failed)
  go_without("node could not compress it")
endif()
