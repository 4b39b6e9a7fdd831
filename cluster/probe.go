package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// probeTime bounds the question to one replica.
const probeTime = 5 * time.Second

// Report is how a replica answers.
type Report struct {
	URL string
	Err error // nil: it is reached, and has the same secret or authority
}

// Probe asks each replica that Redis knows for its name, without becoming one of them. It also
// returns the number of those that have another secret, which are not asked, and an error if
// Redis cannot be read.
func Probe(ctx context.Context, client redis.UniversalClient, prefix string, opts Options) (reports []Report, strangers int, err error) {
	c := New(opts) // it has no Redis, so it notes nothing
	defer c.Close()
	key := replicasKey(prefix)
	values, err := readSet(ctx, client, key)
	if err != nil {
		return nil, 0, err
	}
	members, strangers := c.readMembers(key, values)
	reports = make([]Report, len(members))
	var probing sync.WaitGroup
	for i, m := range members {
		probing.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTime)
			defer cancel()
			name, err := c.peers.name(ctx, m.URL)
			switch {
			case err == nil && m.Version != version:
				err = ErrVersion
			case err == nil && name != m.ID:
				err = fmt.Errorf("%w: another process answers", ErrTwin)
			}
			reports[i] = Report{m.URL, err}
		})
	}
	probing.Wait()
	return reports, strangers, nil
}
