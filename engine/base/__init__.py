"""What every package uses: errors, files, records, parameters, console, machine, arrays, passes."""
