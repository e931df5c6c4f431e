"""What fell where: one line for each city."""

import pandas

rain = pandas.read_csv("rain.csv")
for city, mm in rain.groupby("city")["mm"].sum().items():
    print(city, mm)
