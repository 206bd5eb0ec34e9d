-- A message that Triton cannot read is the request's fault. A model whose process has just died is nobody's: its replica
-- is being replaced, and the call may be made again.
function envoy_on_response(response)
  local headers = response:headers()
  local said = headers:get("grpc-message") or ""
  if said == "Unable to parse request" then headers:replace("grpc-status", INVALID_ARGUMENT) end
  if said:sub(1, #MODEL_DIED) == MODEL_DIED then headers:replace("grpc-status", UNAVAILABLE) end
end
