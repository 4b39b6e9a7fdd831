package pages

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/internal/units"
)

// chart is a picture of columns, and the table that says the same.
type chart struct {
	Title string
	Head  string // of the column of times in the table
	Unit  string // head of the column of values
	Top   string // what the height of the picture stands for
	First string // what the left end of the picture stands for, and the right one
	Last  string
	Width int
	Bars  []bar
}

// bar is a column of a chart in units of its picture.
type bar struct {
	X, Y, Width, Height int
	Label, Text         string
}

// point is a value of a chart and its description.
type point struct {
	label, text string
	value       float64
}

const (
	chartHeight = 60
	// chartWidth is that of all columns with the gaps between them.
	chartWidth = 384
)

// draw adds the columns of points to a chart, the first one on the left. The largest value of a
// chart is top; 0 means the largest of the points. A chart without any value has no columns.
func (c chart) draw(top float64, points []point) chart {
	largest := slices.MaxFunc(points, func(a, b point) int { return cmp.Compare(a.value, b.value) })
	if largest.value == 0 {
		return c
	}
	if top == 0 {
		top, c.Top = largest.value, largest.text
	}
	step := chartWidth / len(points)
	c.Width = step * len(points)
	for i, p := range points {
		height := int(min(1, p.value/top) * chartHeight)
		if p.value > 0 {
			height = max(height, 1)
		}
		c.Bars = append(c.Bars, bar{X: i * step, Y: chartHeight - height, Width: step - max(1, step/6), Height: height, Label: p.label, Text: p.text})
	}
	return c
}

// chartDays is for how many days the API has pulls.
const chartDays = 30

// pullsPerDay draws the pulls of the last 30 days.
func pullsPerDay(p api.PullsDocument) chart {
	counts := make(map[string]int64, len(p.Days))
	for _, day := range p.Days {
		counts[day.Day] = day.Pulls
	}
	today := time.Now().UTC()
	points := make([]point, chartDays)
	for i := range points {
		day := today.AddDate(0, 0, i-chartDays+1).Format(time.DateOnly)
		points[i] = point{day, count(counts[day]), float64(counts[day])}
	}
	return chart{Title: "Pulls per day, last 30 days", Head: "Day (UTC)", Unit: "Pulls", First: "30 days ago", Last: "today"}.draw(0, points)
}

// dayCharts draws the last 24 hours in quarters of an hour.
func dayCharts(curve []api.Point) []chart {
	var hits, saved []point
	for _, p := range curve {
		label := p.Time.UTC().Format("2006-01-02 15:04")
		hits = append(hits, point{label, fmt.Sprintf("%s of %s", percent(p.HitRatio), plural(p.Requests, "request", "requests")), p.HitRatio})
		saved = append(saved, point{label, units.IEC(p.Saved), float64(p.Saved)})
	}
	return []chart{
		chart{Title: "Hit ratio, last 24 hours", Head: "Time (UTC)", Unit: "Hit ratio", Top: percent(1), First: "24 hours ago", Last: "now"}.draw(1, hits),
		chart{Title: "Bytes saved, last 24 hours", Head: "Time (UTC)", Unit: "Saved", First: "24 hours ago", Last: "now"}.draw(0, saved),
	}
}
