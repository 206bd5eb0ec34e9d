-- Takes the model's name from the message to a header, and has the route chosen again: a message without a name gets an
-- empty one, which no deployment has. Then what a model server must not see of a prediction.
--
-- Triton counts the elements of a shape in 64 bits: one that overflows to what the data has ends the model's process.
-- So all shapes together may have no more elements than the message has bytes. Tensors are stepped over, not read.
--
-- A header that gRPC's servers cannot read is refused here: the way in which they refuse the first call of a connection
-- ends the connection, and all callers share it.
--
-- gRPC's own servers answer INTERNAL to what they cannot read: that is the request's fault, so INVALID_ARGUMENT. A model
-- whose process has just died is nobody's: its replica is being replaced, and the call may be made again.

local byte, min = string.byte, math.min
local VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
local INPUTS, SHAPE = 5, 3 -- fields of ModelInferRequest and of its inputs
local PREFIX_BYTES = 5 -- before a message: not compressed, and its size
local PIECE_BYTES = 4096
local UNREADABLE = { "Unable to parse request", "Error parsing '", "Compression bit set but", "Decompression failed" }
local TIMEOUT_LETTERS_MAX = 9 -- eight digits and a unit
local ENCODINGS = { identity = true, gzip = true, deflate = true }
local FIELDS_MAX = 65536 -- the time that this takes; one input has five

-- The message's bytes by their position, nil beyond its end.
local function reader(body)
  local size, from, past, piece = body:length(), 0, 0, ""
  return function(at)
    if at < from or at >= past then
      if at >= size then return nil end
      from, past = at, min(at + PIECE_BYTES, size)
      piece = body:getBytes(from, past - from)
    end
    return byte(piece, at - from + 1)
  end
end

-- A number and the position behind it; nil where there is none.
local function varint(read, at)
  local value, scale = 0, 1
  for _ = 1, 10 do
    local c = read(at)
    if c == nil then return nil end
    at = at + 1
    value, scale = value + c % 128 * scale, scale * 128
    if c < 128 then return value, at end
  end
end

-- The next field: its number, its value where it is a number, where its bytes start and end; nil where it is none.
local function field(read, at, last)
  local tag, value, first
  tag, first = varint(read, at)
  if tag == nil then return nil end
  local wire = tag % 8
  if wire == VARINT then
    value, at = varint(read, first)
  elseif wire == FIXED64 then
    at = first + 8
  elseif wire == FIXED32 then
    at = first + 4
  elseif wire == BYTES then
    value, first = varint(read, first)
    at = value and first + value
    value = nil
  else
    return nil
  end
  if at == nil or at > last then return nil end
  return (tag - wire) / 8, value, first, at
end

-- Why the message must not reach the model server; nil where it may.
local function problem(body)
  local read = reader(body)
  local last = body:length()
  local left, elements = FIELDS_MAX, last
  local at = min(PREFIX_BYTES, last)

  local function input(from, past)
    local product, widest = 1, 1
    local function size(number)
      product, widest = product * number, widest * (number > 0 and number or 1)
      return widest <= ELEMENTS_MAX -- looked at first: more than a number can be times nothing is no number
    end
    while from < past do
      local number, value, first, behind = field(read, from, past)
      left = left - 1
      if number == nil or left < 0 then return "MESSAGE_INVALID" end
      if number == SHAPE and value then
        if not size(value) then return "SHAPE_TOO_LARGE" end
      elseif number == SHAPE then
        while first < behind do
          value, first = varint(read, first)
          left = left - 1
          if value == nil or left < 0 then return "MESSAGE_INVALID" end
          if not size(value) then return "SHAPE_TOO_LARGE" end
        end
      end
      from = behind
    end
    elements = elements - product
    if elements < 0 then return "SHAPE_TOO_LARGE" end
  end

  while at < last do
    local number, _, first, behind = field(read, at, last)
    left = left - 1
    if number == nil or left < 0 then return "MESSAGE_INVALID" end
    if number == INPUTS then
      local found = input(first, behind)
      if found then return found end
    end
    at = behind
  end
end

-- Whether gRPC's servers can read this header.
local function readable(name, value)
  if name:sub(-4) == "-bin" then
    local letters, padding = value:match("^([%w+/]*)(=*)$")
    return letters ~= nil and #padding <= 2 and #letters % 4 ~= 1
  elseif name == "grpc-timeout" then
    return value:match("^%d+[HMSmun]$") ~= nil and #value <= TIMEOUT_LETTERS_MAX
  elseif name == "grpc-encoding" then
    return ENCODINGS[value] ~= nil
  elseif name == "grpc-previous-rpc-attempts" or name == "grpc-retry-pushback-ms" then
    return value:match("^%d+$") ~= nil
  end
  return true
end

local function headers_readable(headers)
  local all = true
  for name, value in pairs(headers) do -- to its end: until then Envoy lets no header be changed
    all = all and readable(name, value)
  end
  return all
end

function envoy_on_request(request)
  local type = request:headers():get("content-type")
  if type and type:sub(1, 16) == "application/grpc" and not headers_readable(request:headers()) then
    request:headers():replace(REFUSED_HEADER, "HEADER_UNREADABLE")
    request:respond({ [":status"] = "400" }, "HEADER_UNREADABLE")
    return
  end
  local found = request:streamInfo():dynamicMetadata():get(EXTRACTION)
  if found == nil then return end
  local headers = request:headers()
  local names = found["model_name"] or found["name"]
  headers:replace(MODEL_HEADER, names and names[1] or "")
  request:clearRouteCache()
  -- Messages of a stream pass as they come: holding them back would end the stream.
  if headers:get(":path"):match("/ModelInfer$") == nil then return end
  local body = request:body()
  local wrong = body and problem(body)
  if wrong then
    request:headers():replace(REFUSED_HEADER, wrong) -- asked for again: waiting for the body ends what came before
    request:respond({ [":status"] = "400" }, wrong)
  end
end

function envoy_on_response(response)
  local headers = response:headers()
  local said = headers:get("grpc-message")
  if said == nil then return end
  if said:sub(1, #MODEL_DIED) == MODEL_DIED then headers:replace("grpc-status", UNAVAILABLE) end
  if headers:get("grpc-status") ~= INTERNAL then return end
  for _, words in ipairs(UNREADABLE) do
    if said:sub(1, #words) == words then headers:replace("grpc-status", INVALID_ARGUMENT) end
  end
end
