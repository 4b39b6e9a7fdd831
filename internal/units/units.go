// Package units writes sizes and durations as people do.
package units

import (
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// IEC returns a number of bytes with a binary unit, such as "5.0 MiB". Negative
// numbers count as 0.
func IEC(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// Rate returns the average of a number of bytes over a time, such as "5.0 MiB/s". Over
// no time it is that of a second.
func Rate(n int64, over time.Duration) string {
	if over > 0 {
		n = int64(float64(n) / over.Seconds())
	}
	return IEC(n) + "/s"
}

// Duration returns a duration without units that are zero at its end: "6h", for
// which [time.Duration.String] returns "6h0m0s".
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
