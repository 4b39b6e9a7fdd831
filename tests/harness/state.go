package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metric returns the sum of a metric's samples whose labels are among those
// given as name, value, name, value...
func (w *Weir) Metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := ParseMetrics(w.Get(t, "/metrics").Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		have := make(map[string]string)
		for _, l := range m.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		matches := true
		for i := 0; i+1 < len(labels); i += 2 {
			matches = matches && have[labels[i]] == labels[i+1]
		}
		if matches {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// ParseMetrics parses the text that /metrics answers with.
func ParseMetrics(text []byte) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(text))
}

// MetricIs waits until a metric has a value.
func (w *Weir) MetricIs(t *testing.T, value float64, name string, labels ...string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%s%v is %v", name, labels, value), func() bool { return w.Metric(t, name, labels...) == value })
}

// Logs waits for a line that holds all of the given texts.
func (w *Weir) Logs(t *testing.T, texts ...string) {
	t.Helper()
	Eventually(t, fmt.Sprintf("a log line with %q", texts), func() bool { return w.Log.Count(texts...) > 0 })
}

// Stored returns the names of the files below the mirror's data, sorted.
func (w *Weir) Stored(t *testing.T, below ...string) []string {
	t.Helper()
	var files []string
	root := filepath.Join(append([]string{w.Data}, below...)...)
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return ignoreMissing(err)
		}
		name, err := filepath.Rel(w.Data, path)
		files = append(files, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

// A file may go while the tree is walked.
func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// ExpectIntact fails the test if the mirror stores content under a digest that
// is not its own.
func (w *Weir) ExpectIntact(t *testing.T) {
	t.Helper()
	for _, name := range w.Stored(t, "blobs") {
		content, err := os.ReadFile(filepath.Join(w.Data, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // evicted since the names were listed
		}
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(filepath.ToSlash(name), "/")
		want := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[len(parts)-1])
		if got := want.Algorithm().FromBytes(content); got != want {
			t.Errorf("%s holds %d bytes with digest %s", name, len(content), got)
		}
	}
}
