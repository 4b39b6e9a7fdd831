package s3

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/storage"
)

// operation is a kind of request, as metrics name it.
type operation string

const (
	opGet    operation = "get"    // content
	opHead   operation = "head"   // of content or of a record
	opPut    operation = "put"    // content
	opDelete operation = "delete" // of content or of a record
	opList   operation = "list"
	opRead   operation = "read_record"
	opWrite  operation = "write_record"
	opSurvey operation = "survey"
)

func operations() []operation {
	return []operation{opGet, opHead, opPut, opDelete, opList, opRead, opWrite, opSurvey}
}

// result is how an operation ended, as metrics name it.
type result string

const (
	ok        result = "ok"
	missing   result = "missing"
	conflict  result = "conflict"
	denied    result = "denied"
	throttled result = "throttled"
	failed    result = "failed"
	paused    result = "paused"   // not sent
	canceled  result = "canceled" // the caller left
)

func results() []result {
	return []result{ok, missing, conflict, denied, throttled, failed, paused, canceled}
}

func resultOf(err error) result {
	switch {
	case err == nil:
		return ok
	case errors.Is(err, storage.ErrNotExist):
		return missing
	}
	switch ReasonOf(err) {
	case Conflict:
		return conflict
	case Denied, BadCredentials:
		return denied
	case Throttled:
		return throttled
	default:
		return failed
	}
}

// Metrics counts the operations on a bucket. A nil *Metrics counts nothing.
type Metrics struct {
	operations *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	bytes      *prometheus.CounterVec
	paused     prometheus.Gauge
	reasons    atomic.Int32 // bits of those for which no request is sent
}

// Reasons for which no request is sent.
const (
	requestsFail int32 = 1 << iota
	bodiesFail
)

// NewMetrics registers the metrics of a bucket.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_s3_operations_total",
			Help: "Operations on the bucket, by kind and result.",
		}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "weir_s3_operation_seconds",
			Help:    "Duration of operations on the bucket; for content, until the first byte arrived or the last one was sent.",
			Buckets: []float64{.005, .02, .05, .1, .25, .5, 1, 2.5, 10, 60, 300},
		}, []string{"operation"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_s3_bytes_total",
			Help: "Bytes of content that came from the bucket (in) or were stored in it (out).",
		}, []string{"direction"}),
		paused: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_s3_paused",
			Help: "1 while the bucket is not used because its last requests failed, else 0.",
		}),
	}
	for _, op := range operations() {
		m.seconds.WithLabelValues(string(op))
		for _, result := range results() {
			m.operations.WithLabelValues(string(op), string(result))
		}
	}
	m.bytes.WithLabelValues("in")
	m.bytes.WithLabelValues("out")
	r.MustRegister(m.operations, m.seconds, m.bytes, m.paused)
	return m
}

func (m *Metrics) ended(op operation, how result, took time.Duration) {
	if m == nil {
		return
	}
	m.operations.WithLabelValues(string(op), string(how)).Inc()
	if how != paused {
		m.seconds.WithLabelValues(string(op)).Observe(took.Seconds())
	}
}

func (m *Metrics) moved(direction string, bytes int64) {
	if m != nil {
		m.bytes.WithLabelValues(direction).Add(float64(bytes))
	}
}

// pausing returns a function that notes whether requests are not sent for a reason.
func (m *Metrics) pausing(reason int32) func(now bool) {
	return func(now bool) {
		if m == nil {
			return
		}
		if now {
			m.reasons.Or(reason)
		} else {
			m.reasons.And(^reason)
		}
		m.paused.Set(float64(min(m.reasons.Load(), 1)))
	}
}
