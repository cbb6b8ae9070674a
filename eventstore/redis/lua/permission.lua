-- Says whether the user may run a command. Permissions are looked at for each command as it runs; servers before 7.0
-- cannot tell them in advance.
local function may(...)
  return not redis.acl_check_cmd or redis.acl_check_cmd(...)
end
