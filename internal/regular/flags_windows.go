package regular

// onlyRegular is empty. Windows has pipes and devices outside of directories, and lets only
// administrators make links.
const onlyRegular = 0
