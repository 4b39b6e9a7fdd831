package registry

var CacheStatus = cacheStatus
