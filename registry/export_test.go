package registry

var (
	CacheStatus = cacheStatus
	Parse       = parse
)
