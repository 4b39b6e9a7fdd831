package pages

import (
	"time"

	"github.com/weirhq/weir/api"
)

// bar is a column of a chart in units of its picture.
type bar struct {
	X, Y, Width, Height int
	Label               string
	Value               int64
}

const (
	chartDays   = 30
	chartHeight = 60
	barWidth    = 10
)

// bars returns the pulls of the last 30 days, the oldest first; none without a pull.
func bars(p api.PullsDocument) []bar {
	counts := make(map[string]int64, len(p.Days))
	var most int64
	for _, day := range p.Days {
		counts[day.Day] = day.Pulls
		most = max(most, day.Pulls)
	}
	if most == 0 {
		return nil
	}
	today := time.Now().UTC()
	all := make([]bar, chartDays)
	for i := range all {
		day := today.AddDate(0, 0, i-chartDays+1).Format(time.DateOnly)
		height := int(float64(counts[day]) / float64(most) * chartHeight)
		if counts[day] > 0 {
			height = max(height, 1)
		}
		all[i] = bar{X: i * (barWidth + 2), Y: chartHeight - height, Width: barWidth, Height: height, Label: day, Value: counts[day]}
	}
	return all
}
