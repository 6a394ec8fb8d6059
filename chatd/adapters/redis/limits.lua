#!lua name=chatd_limits_@
-- Rate limits shared by all nodes of chatd; what is promised stands in chatd/limits/port.py, and why it holds in
-- chatd/limits/lease.py. '@' is replaced by a digest of this text, so that nodes of two versions do not replace each
-- other's functions. Only what Redis 7.0 and Valkey 8 both have. Times are microseconds of the server's clock.
--
-- A bucket is a hash: 'x' tokens, 't' when that was, and 'n<node>' = '<tokens lent> <expires> <number of the report>'.
-- A window is a hash: '<slot>' = attempts counted in it.

local GRANT_SHARE = 0.75
local SLOTS = 20

local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- The bucket as it is now; 'expired' are records that are to be deleted.
local function read(key, rate, burst, now)
  local raw = redis.call('HGETALL', key)
  local bucket = {x = burst, lent = 0, records = {}, expired = {}, holders = 0, last = now}
  local since = now
  for i = 1, #raw, 2 do
    local name, value = raw[i], raw[i + 1]
    if name == 'x' then
      bucket.x = tonumber(value)
    elseif name == 't' then
      since = tonumber(value)
    else
      local tokens, expires, number = string.match(value, '^(%d+) (%d+) (%d+)$')
      bucket.records[name] = {tokens = tonumber(tokens), expires = tonumber(expires), number = tonumber(number)}
      bucket.lent = bucket.lent + bucket.records[name].tokens
    end
  end
  -- Filled up to what was lent until now, expired leases too: they ended some time in between, and to find out when
  -- would win a node's share of one refill.
  bucket.x = math.min(burst - bucket.lent, bucket.x + math.max(0, now - since) * rate / 1000000)
  for name, record in pairs(bucket.records) do
    if record.expires <= now then
      bucket.lent = bucket.lent - record.tokens
      bucket.expired[#bucket.expired + 1] = name
    else
      bucket.holders = bucket.holders + 1
      bucket.last = math.max(bucket.last, record.expires)
    end
  end
  for _, name in ipairs(bucket.expired) do
    bucket.records[name] = nil
  end
  return bucket
end

local function write(key, bucket, node, rate, burst, now)
  local record = bucket.records[node]
  local fields = {'x', string.format('%.6f', bucket.x), 't', string.format('%.0f', now)}
  if record then
    fields[5] = node
    fields[6] = string.format('%d %.0f %.0f', record.tokens, record.expires, record.number)
  end
  if #bucket.expired > 0 then
    redis.call('HDEL', key, unpack(bucket.expired))
  end
  redis.call('HSET', key, unpack(fields))
  local full = (burst - bucket.lent - bucket.x) / rate * 1000
  redis.call('PEXPIRE', key, string.format('%.0f', math.max(full, (bucket.last - now) / 1000) + 1000))
end

-- KEYS: buckets. ARGV: node, number of the report; for each key: rate, burst, balance, give, want, release, lease in ms.
-- Returns for each key: kept, granted, tokens left in thousandths, holders.
local function lease(keys, args)
  local now, answer = clock(), {}
  local node, number = 'n' .. args[1], tonumber(args[2])
  for i, key in ipairs(keys) do
    local at = 2 + (i - 1) * 7
    local rate, burst, balance = tonumber(args[at + 1]), tonumber(args[at + 2]), tonumber(args[at + 3])
    local give, want, release = tonumber(args[at + 4]), tonumber(args[at + 5]), args[at + 6] == '1'
    local length = tonumber(args[at + 7]) * 1000
    local bucket = read(key, rate, burst, now)
    local record = bucket.records[node]
    local kept, granted = 0, 0
    if not (record and record.number > number) then
      local had = 0
      if record then
        had, kept = record.tokens, 1
        give = math.min(give, math.max(0, had - balance))
        balance = math.min(balance, had)
        bucket.x = bucket.x + give
      else
        balance = 0
        bucket.holders = bucket.holders + 1
      end
      if bucket.x >= 1 then
        granted = math.min(want, math.max(1, math.floor(bucket.x * GRANT_SHARE)))
      end
      bucket.x = bucket.x - granted
      bucket.lent = bucket.lent - had + balance + granted
      if release then
        bucket.records[node] = nil
        bucket.holders = bucket.holders - 1
        bucket.expired[#bucket.expired + 1] = node
      else
        bucket.records[node] = {tokens = balance + granted, expires = now + length, number = number}
        bucket.last = math.max(bucket.last, now + length)
      end
      write(key, bucket, node, rate, burst, now)
    end
    answer[#answer + 1] = kept
    answer[#answer + 1] = granted
    answer[#answer + 1] = math.floor(bucket.x * 1000)
    answer[#answer + 1] = bucket.holders
  end
  return answer
end

-- KEYS: buckets. ARGV: for each key: rate, burst. Returns for each the tokens in it and lent of it, in thousandths.
local function peek(keys, args)
  local now, answer = clock(), {}
  for i, key in ipairs(keys) do
    local bucket = read(key, tonumber(args[2 * i - 1]), tonumber(args[2 * i]), now)
    answer[i] = math.floor((bucket.x + bucket.lent) * 1000)
  end
  return answer
end

-- A sliding window, in slots. A slot counts whole until its end has left the window: to weigh the oldest one by its
-- share, as is often done, lets half as much again through when its attempts came all at its end.
-- KEYS: the window. ARGV: limit, window in ms, attempts (0: only look). Returns: allowed, remaining, retry ms, reset ms.
local function count(keys, args)
  local now = clock()
  local limit, window, wanted = tonumber(args[1]), tonumber(args[2]) * 1000, tonumber(args[3])
  local width = math.ceil(window / SLOTS)
  local slot = math.floor(now / width)
  local oldest = slot - SLOTS
  local raw, slots, old, used = redis.call('HGETALL', keys[1]), {}, {}, 0
  for i = 1, #raw, 2 do
    local number, tries = tonumber(raw[i]), tonumber(raw[i + 1])
    if number < oldest or number > slot + SLOTS then
      old[#old + 1] = raw[i]
    else
      slots[#slots + 1] = {number, tries}
      used = used + tries
    end
  end
  table.sort(slots, function(a, b) return a[1] < b[1] end)
  local allowed, retry, reset = used + wanted <= limit, 0, 0
  if allowed and wanted > 0 then
    used = used + wanted
    redis.call('HINCRBY', keys[1], string.format('%.0f', slot), wanted)
    redis.call('PEXPIRE', keys[1], string.format('%.0f', (window + 2 * width) / 1000))
    reset = (slot + SLOTS + 1) * width - now
  elseif #slots > 0 then
    reset = (slots[#slots][1] + SLOTS + 1) * width - now
  end
  if #old > 0 then
    redis.call('HDEL', keys[1], unpack(old))
  end
  local room = limit - used
  for _, entry in ipairs(slots) do
    if room >= math.max(1, wanted) then
      break
    end
    room = room + entry[2]
    retry = (entry[1] + SLOTS + 1) * width - now
  end
  return {allowed and 1 or 0, math.max(0, limit - used), math.ceil(retry / 1000), math.ceil(reset / 1000)}
end

redis.register_function('chatd_lease_@', lease)
redis.register_function('chatd_count_@', count)
redis.register_function{function_name = 'chatd_peek_@', callback = peek, flags = {'no-writes'}}
