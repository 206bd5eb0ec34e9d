-- A message that Triton cannot read is the request's fault.
function envoy_on_response(response)
  local headers = response:headers()
  if headers:get("grpc-message") == "Unable to parse request" then headers:replace("grpc-status", INVALID_ARGUMENT) end
end
