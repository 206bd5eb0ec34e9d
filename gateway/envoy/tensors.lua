-- What a model server must not see of a prediction's JSON, and what it must not say about it.
--
-- Triton takes the memory that a shape asks for before it looks at the data, and reads nested JSON by recursion: either
-- ends it. So all shapes together may have no more elements than the body has bytes, and nesting has a limit. One
-- pass, byte by byte: its time depends on the body's size alone.
--
-- Triton answers 500 to JSON that it cannot read as tensors: that is the request's fault, so 400. It answers 500 for a
-- model whose process has just died: its replica is being replaced, and the call may be made again, so 503.

local byte, min = string.byte, math.min
local QUOTE, BACKSLASH, COMMA, COLON, ZERO, SIX, SEVEN, NINE = byte('"\\,:0679', 1, 8)
local OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT = byte("[]{}", 1, 4)
local SHAPE = { byte("shape", 1, 5) }
local PIECE_BYTES = 65536 -- no copy of a whole body is made
local ESCAPED_LETTER = { byte("u00", 1, 3) } -- then a 6 or a 7
local UNREADABLE = { "Unable to ", "failed to parse the request JSON buffer", "failed to get request params", "attempt to ", "Expected JSON " }

-- Why `last` bytes of JSON must not reach the model server; nil where they may.
--   elements: how many the tensors may have together; nil where the JSON is of the model's own making.
local function problem(body, last, elements)
  local depth = 0
  local in_text, escape, plain, matched = false, 0, true, 0 -- of the text being read, or the last one
  local at_shape, in_shape = false, false
  local product, widest, number = 1, 1, 0
  local start = 0
  while start < last do
    local count = min(PIECE_BYTES, last - start)
    local piece = body:getBytes(start, count)
    for at = 1, count do
      local c = byte(piece, at)
      if in_text then
        if escape > 0 then
          if escape == 4 and (c == SIX or c == SEVEN) then plain = false end
          escape = c == ESCAPED_LETTER[escape] and escape + 1 or 0
        elseif c == BACKSLASH then
          escape, matched = 1, -1
        elseif c == QUOTE then
          in_text = false
        elseif matched >= 0 then
          matched = c == SHAPE[matched + 1] and matched + 1 or -1
        end
      elseif in_shape then
        if c >= ZERO and c <= NINE then
          number = number * 10 + c - ZERO
        elseif c == COMMA or c == CLOSE_LIST then
          product, widest = product * number, widest * (number > 0 and number or 1)
          -- The widest first: more than a number can be times nothing is no number.
          if widest > ELEMENTS_MAX then return "SHAPE_TOO_LARGE" end
          number = 0
          if c == CLOSE_LIST then
            in_shape, depth, elements = false, depth - 1, elements - product
            if elements < 0 then return "SHAPE_TOO_LARGE" end
          end
        elseif c > 32 then
          return "SHAPE_INVALID"
        end
      elseif c == QUOTE then
        in_text, plain, matched = true, true, 0
      elseif c == COLON then
        -- A letter that is escaped could hide a key from this script.
        if not plain then return "KEY_ESCAPED" end
        at_shape = elements ~= nil and matched == #SHAPE
      elseif c == OPEN_LIST or c == OPEN_OBJECT then
        depth = depth + 1
        if depth > DEPTH_MAX then return "NESTED_TOO_DEEP" end
        in_shape, at_shape = at_shape and c == OPEN_LIST, false
        product, widest, number = 1, 1, 0
      elseif c == CLOSE_LIST or c == CLOSE_OBJECT then
        depth, at_shape = depth - 1, false
      end
    end
    start = start + count
  end
end

function envoy_on_request(request)
  local body = request:body()
  if body == nil then return end
  local headers = request:headers() -- only now: waiting for the body ends what came before
  local size = body:length()
  local infers = headers:get(":path"):match("^[^?]*"):match("/infer$")
  -- Raw tensors may follow the JSON there: bytes that mean nothing here.
  local json = infers and headers:get("inference-header-content-length")
  local last = json and json:match("^%d+$") and tonumber(json) or size
  local found = (json and not json:match("^%d+$") or last > size) and "HEADER_LENGTH_INVALID"
  found = found or problem(body, last, infers and size or nil)
  if found then
    headers:replace(REFUSED_HEADER, found)
    request:respond({ [":status"] = "400" }, found)
  end
end

function envoy_on_response(response)
  if response:headers():get(":status") ~= "500" then return end
  local body = response:body()
  if body == nil then return end
  local text = body:getBytes(0, min(body:length(), 100))
  local said = text:match('^{"error":%s*"(.*)') or ""
  if said:sub(1, #MODEL_DIED) == MODEL_DIED then
    response:headers():replace(":status", "503")
    response:headers():replace("retry-after", "1")
  end
  for _, words in ipairs(UNREADABLE) do
    if said:sub(1, #words) == words then response:headers():replace(":status", "400") end
  end
end
