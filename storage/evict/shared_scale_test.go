package evict_test

import (
	"bytes"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/storage/s3/s3test"
)

// crowded says that a bucket has many blobs in each shard, and answers all other requests
// as its server does. Each page takes a while.
func crowded(perShard int, page time.Duration) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			query := r.URL.Query()
			_, shard, ok := strings.Cut(strings.TrimSuffix(query.Get("prefix"), "/"), "blobs/sha256/")
			if !ok || query.Get("list-type") != "2" {
				next.ServeHTTP(w, r)
				return
			}
			time.Sleep(page)
			from, _ := strconv.Atoi(query.Get("continuation-token")) // none is the first page
			to := min(from+1000, perShard)
			var b bytes.Buffer
			b.WriteString("<ListBucketResult>")
			if to < perShard {
				fmt.Fprintf(&b, "<IsTruncated>true</IsTruncated><NextContinuationToken>%d</NextContinuationToken>", to)
			}
			for i := from; i < to; i++ {
				fmt.Fprintf(&b, "<Contents><Key>blobs/sha256/%s/%s%062x</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><Size>1000</Size></Contents>", shard, shard, i)
			}
			b.WriteString("</ListBucketResult>")
			_, _ = w.Write(b.Bytes()) // a client that has left needs none
		})
	}
}

// index evicts from a bucket, and returns how long its index took and the memory of that.
func index(tb testing.TB, perShard int, page time.Duration) (took time.Duration, bytesPerEntry float64) {
	tb.Helper()
	server := s3test.New(tb)
	server.Intercept(crowded(perShard, page))
	store, err := s3.New(s3.Options{Endpoint: server.Endpoint(tb), Bucket: s3test.Bucket, Region: "us-east-1", AccessKeyID: "key", SecretKey: "secret"})
	must(tb, err)
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	registry := prometheus.NewRegistry()
	before, begun := heap(), time.Now()
	e := evict.NewShared(evict.SharedOptions{
		Store: store, Notes: store.Notes(), Lease: store.NewLease(), MaxBytes: 1 << 60, Interval: time.Hour, Metrics: evict.NewSharedMetrics(registry),
	})
	defer func() {
		e.Close()
		must(tb, store.Close())
	}()
	for {
		if time.Since(begun) > 10*time.Minute {
			tb.Fatal("the index takes more than ten minutes")
		}
		if objects(tb, registry) == float64(256*perShard) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	took = time.Since(begun)
	return took, float64(int64(heap())-int64(before)) / float64(256*perShard)
}

func objects(tb testing.TB, registry *prometheus.Registry) float64 {
	families, err := registry.Gather()
	must(tb, err)
	for _, family := range families {
		if family.GetName() == "weir_s3_index_objects" {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return 0
}

// A bucket is listed in several parts at once, and each content is in the index once.
func TestSharedIndexOfBucket(t *testing.T) {
	if took, _ := index(t, 20, 0); took > time.Minute {
		t.Errorf("the index took %s", took)
	}
}

// BenchmarkMillionObjects measures the index of a bucket with a million objects, of which a page
// takes 100 ms: the time until it is complete, and its memory.
func BenchmarkMillionObjects(b *testing.B) {
	for b.Loop() {
		took, bytesPerEntry := index(b, 3907, 100*time.Millisecond)
		b.ReportMetric(took.Seconds(), "s/index")
		b.ReportMetric(bytesPerEntry, "B/entry")
	}
}
