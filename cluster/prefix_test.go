package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/cluster"
	"github.com/weirhq/weir/tokencache/redistest"
)

// Any prefix of keys will do: leases, blobs, answers and turns work with it, on a single Redis
// and on a Redis Cluster, where braces decide which server has a key.
func TestOddPrefixes(t *testing.T) {
	servers := map[string]redis.UniversalClient{"one server": redistest.Start(t).Client(t)}
	if !testing.Short() { // a cluster takes seconds to form
		servers["a cluster"] = redistest.StartCluster(t).Client(t)
	}
	for server, client := range servers {
		for _, prefix := range []string{
			"weir", "", ":", "a:b", "a b", "{weir}", "a{b}c", "{a}{b}", "{}", "}{", "{", "*?[x]", "%s", "ü", "\n\r\x00\"'\\", strings.Repeat("long", 300),
		} {
			t.Run(fmt.Sprintf("%s, %.20q", server, prefix), func(t *testing.T) {
				b := newBench(t)
				board := cluster.NewRedisBoard(client)
				var replicas []*replica
				for n := range 2 {
					r := b.start(fmt.Sprint("replica", n))
					r.UseBoard(board, prefix)
					replicas = append(replicas, r)
				}
				one, two := replicas[0], replicas[1]
				dgst, bytes := body(1000)
				content := newGrowing(len(bytes))
				content.add(bytes)
				one.contents.set(dgst, content)
				one.turn(t, dgst, 0)
				all(t, two.reads(t, dgst, 0, one), bytes)
				content.update(func() { content.stored = true })
				one.end(true)
				for await := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
					left, err := client.Exists(t.Context(), cluster.LeaseKey(prefix, one.want(dgst, 0))).Result()
					if err == nil && left == 0 {
						break
					}
					if time.Now().After(await) {
						t.Fatalf("the lease is left: %v", err)
					}
				}
				all(t, two.reads(t, dgst, 0, one), bytes)

				if body, _, settle := one.Ask(t.Context(), "question"); body == nil {
					settle([]byte("answer"), time.Minute)
				} else {
					t.Errorf("the first replica got %q", body)
				}
				if body, _, _ := two.Ask(t.Context(), "question"); string(body) != "answer" {
					t.Errorf("the other one got %q", body)
				}
				one.Tell(t.Context(), "word", []byte("gone"), time.Minute)
				if body, _ := two.Look(t.Context(), "word"); string(body) != "gone" {
					t.Errorf("it was told %q", body)
				}

				turn, other := cluster.NewTurn("eviction"), cluster.NewTurn("eviction")
				cluster.UseBoard(turn, board, prefix)
				cluster.UseBoard(other, board, prefix)
				if held, err := turn.Hold(t.Context(), time.Minute); !held || err != nil {
					t.Errorf("the turn: %v, %v", held, err)
				}
				if held, err := other.Hold(t.Context(), time.Minute); held || err != nil {
					t.Errorf("the turn of another process: %v, %v", held, err)
				}
				turn.Release(t.Context())
				if held, err := other.Hold(t.Context(), time.Minute); !held || err != nil {
					t.Errorf("the turn that was given back: %v, %v", held, err)
				}
			})
		}
	}
}
