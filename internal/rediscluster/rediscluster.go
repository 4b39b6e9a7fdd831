// Package rediscluster reports whether a Redis Cluster works as a whole.
//
// A cluster that has lost a master answers for the keys of the other ones. A circuit
// breaker that took such an answer for the end of the failure would close and open
// again with every few keys until the failover is over.
package rediscluster

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Ready reads the topology of a cluster again and returns nil if all its masters
// answer. Without it, a client learns of a new master only when a server redirects it,
// which one that is unavailable does not, or up to a minute later. Ready returns nil for a
// client of no cluster.
func Ready(ctx context.Context, client redis.UniversalClient) error {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	return cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		return master.Ping(ctx).Err()
	})
}
